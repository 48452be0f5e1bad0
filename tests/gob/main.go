// Go's own encoding/gob, asked what it makes of our bytes, and for bytes of its own.
//
// Each line of standard input is answered by one line:
//
//	decode KIND HEX    {"value":...}, or {"error":"...","value":what was read before it}
//	encode KIND JSON   {"hex":"..."}, or {"error":"..."}
//
// The types are those of a Weave Net router, as far as gob sees them: names, kinds and order of the fields.
// It needs Debian's golang and nothing else.
package main

import (
	"bufio"
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
)

type PeerName uint64
type PeerUID uint64
type Address uint32
type Count uint32

// ===== topology =====

type peerSummary struct {
	NameByte   []byte
	NickName   string
	UID        PeerUID
	Version    uint64
	ShortID    uint16
	HasShortID bool
}

type connectionSummary struct {
	NameByte      []byte
	RemoteTCPAddr string
	Outbound      bool
	Established   bool
}

// ===== address manager =====

type NodeID struct {
	Name PeerName
	UID  PeerUID
}

type ProposalID struct {
	Round    uint
	Proposer NodeID
}

type Value []PeerName

type AcceptedValue struct {
	Value  Value
	Origin ProposalID
}

type NodeClaims struct {
	Promise     ProposalID
	Accepted    ProposalID
	AcceptedVal AcceptedValue
}

type GossipState map[NodeID]NodeClaims

type entry struct {
	Token   Address
	Peer    PeerName
	Version uint32
	Free    Count
}

type entries []*entry

type Ring struct {
	Start, End Address
	Peer       PeerName
	Entries    entries
	Seeds      []PeerName
}

type gossipState struct {
	Now       int64
	Nicknames map[PeerName]string
	Paxos     GossipState
	Ring      *Ring
}

type Range struct {
	Start, End Address
}

// ===== the same as JSON: bytes in hexadecimal, maps as sorted lists =====

type hexBytes []byte

func (b hexBytes) MarshalJSON() ([]byte, error) {
	return json.Marshal(hex.EncodeToString(b))
}

func (b *hexBytes) UnmarshalJSON(text []byte) error {
	var digits string
	if err := json.Unmarshal(text, &digits); err != nil {
		return err
	}
	decoded, err := hex.DecodeString(digits)
	*b = decoded
	return err
}

type connectionJSON struct {
	NameByte              hexBytes
	RemoteTCPAddr         string
	Outbound, Established bool
}

type peerJSON struct {
	NameByte    hexBytes
	NickName    string
	UID         PeerUID
	Version     uint64
	ShortID     uint16
	HasShortID  bool
	Connections []connectionJSON
}

type nicknameJSON struct {
	Name     PeerName
	NickName string
}

type claimsJSON struct {
	Node NodeID
	NodeClaims
}

type gossipStateJSON struct {
	Now       int64
	Nicknames []nicknameJSON
	Paxos     *[]claimsJSON // null: absent, which is not the same as empty
	Ring      *Ring
}

type gossipJSON struct {
	Channel string
	Source  PeerName
	Data    hexBytes
}

type unicastJSON struct {
	Channel     string
	Source      PeerName
	Destination PeerName
	Data        hexBytes
}

// ===== one codec a kind =====

type codec struct {
	decode func(*gob.Decoder) (interface{}, error)
	encode func(*gob.Encoder, []byte) error
}

var codecs = map[string]codec{
	"topology":         {decodeTopology, encodeTopology},
	"gossipstate":      {decodeGossipState, encodeGossipState},
	"range":            {decodeRange, encodeRange},
	"envelope-gossip":  {decodeGossip, encodeGossip},
	"envelope-unicast": {decodeUnicast, encodeUnicast},
	"features":         {decodeFeatures, encodeFeatures},
}

// A router reads peers until the end of the data, wherever in a peer that end comes.
func decodeTopology(from *gob.Decoder) (interface{}, error) {
	peers := []peerJSON{}
	for {
		var peer peerSummary
		var connections []connectionSummary
		err := decodeAll(from, &peer, &connections)
		if err == io.EOF {
			return peers, nil
		}
		if err != nil {
			return peers, err
		}
		read := peerJSON{peer.NameByte, peer.NickName, peer.UID, peer.Version, peer.ShortID, peer.HasShortID, []connectionJSON{}}
		for _, c := range connections {
			read.Connections = append(read.Connections, connectionJSON{c.NameByte, c.RemoteTCPAddr, c.Outbound, c.Established})
		}
		peers = append(peers, read)
	}
}

func encodeTopology(to *gob.Encoder, text []byte) error {
	var peers []peerJSON
	if err := parse(text, &peers); err != nil {
		return err
	}
	for _, p := range peers {
		connections := []connectionSummary{}
		for _, c := range p.Connections {
			connections = append(connections, connectionSummary{c.NameByte, c.RemoteTCPAddr, c.Outbound, c.Established})
		}
		peer := peerSummary{p.NameByte, p.NickName, p.UID, p.Version, p.ShortID, p.HasShortID}
		if err := encodeAll(to, peer, connections); err != nil {
			return err
		}
	}
	return nil
}

func decodeGossipState(from *gob.Decoder) (interface{}, error) {
	var state gossipState
	err := from.Decode(&state)
	read := gossipStateJSON{Now: state.Now, Nicknames: []nicknameJSON{}, Ring: state.Ring}
	for name, nickname := range state.Nicknames {
		read.Nicknames = append(read.Nicknames, nicknameJSON{name, nickname})
	}
	sort.Slice(read.Nicknames, func(i, j int) bool { return read.Nicknames[i].Name < read.Nicknames[j].Name })
	if state.Paxos != nil {
		read.Paxos = &[]claimsJSON{}
		for node, claims := range state.Paxos {
			if claims.AcceptedVal.Value == nil {
				claims.AcceptedVal.Value = Value{}
			}
			*read.Paxos = append(*read.Paxos, claimsJSON{node, claims})
		}
		list := *read.Paxos
		sort.Slice(list, func(i, j int) bool {
			a, b := list[i].Node, list[j].Node
			return a.Name < b.Name || a.Name == b.Name && a.UID < b.UID
		})
	}
	if ring := state.Ring; ring != nil {
		if ring.Entries == nil {
			ring.Entries = entries{}
		}
		if ring.Seeds == nil {
			ring.Seeds = []PeerName{}
		}
	}
	return read, err
}

func encodeGossipState(to *gob.Encoder, text []byte) error {
	var given gossipStateJSON
	if err := parse(text, &given); err != nil {
		return err
	}
	state := gossipState{Now: given.Now, Nicknames: map[PeerName]string{}, Ring: given.Ring}
	for _, n := range given.Nicknames {
		state.Nicknames[n.Name] = n.NickName
	}
	if given.Paxos != nil {
		state.Paxos = GossipState{}
		for _, c := range *given.Paxos {
			state.Paxos[c.Node] = c.NodeClaims
		}
	}
	return to.Encode(state)
}

func decodeRange(from *gob.Decoder) (interface{}, error) {
	var r Range
	err := from.Decode(&r)
	return r, err
}

func encodeRange(to *gob.Encoder, text []byte) error {
	var r Range
	if err := parse(text, &r); err != nil {
		return err
	}
	return to.Encode(r)
}

func decodeGossip(from *gob.Decoder) (interface{}, error) {
	var m gossipJSON
	err := decodeAll(from, &m.Channel, &m.Source, (*[]byte)(&m.Data))
	return m, err
}

func encodeGossip(to *gob.Encoder, text []byte) error {
	var m gossipJSON
	if err := parse(text, &m); err != nil {
		return err
	}
	return encodeAll(to, m.Channel, m.Source, []byte(m.Data))
}

func decodeUnicast(from *gob.Decoder) (interface{}, error) {
	var m unicastJSON
	err := decodeAll(from, &m.Channel, &m.Source, &m.Destination, (*[]byte)(&m.Data))
	return m, err
}

func encodeUnicast(to *gob.Encoder, text []byte) error {
	var m unicastJSON
	if err := parse(text, &m); err != nil {
		return err
	}
	return encodeAll(to, m.Channel, m.Source, m.Destination, []byte(m.Data))
}

func decodeFeatures(from *gob.Decoder) (interface{}, error) {
	features := map[string]string{}
	err := from.Decode(&features)
	return features, err
}

func encodeFeatures(to *gob.Encoder, text []byte) error {
	var features map[string]string
	if err := parse(text, &features); err != nil {
		return err
	}
	return to.Encode(features)
}

func decodeAll(from *gob.Decoder, targets ...interface{}) error {
	for _, target := range targets {
		if err := from.Decode(target); err != nil {
			return err
		}
	}
	return nil
}

func encodeAll(to *gob.Encoder, values ...interface{}) error {
	for _, value := range values {
		if err := to.Encode(value); err != nil {
			return err
		}
	}
	return nil
}

// A misspelt field would otherwise become a zero, and a test that passes.
func parse(text []byte, target interface{}) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	return decoder.Decode(target)
}

// ===== the conversation =====

func answer(line string) map[string]interface{} {
	verb, rest, _ := strings.Cut(line, " ")
	kind, argument, _ := strings.Cut(rest, " ")
	codec, known := codecs[kind]
	if !known {
		return map[string]interface{}{"error": fmt.Sprintf("unknown kind %q", kind)}
	}
	reply := map[string]interface{}{}
	var err error
	switch verb {
	case "decode":
		var raw []byte
		if raw, err = hex.DecodeString(argument); err == nil {
			reply["value"], err = codec.decode(gob.NewDecoder(bytes.NewReader(raw)))
		}
	case "encode":
		var written bytes.Buffer
		if err = codec.encode(gob.NewEncoder(&written), []byte(argument)); err == nil {
			reply["hex"] = hex.EncodeToString(written.Bytes())
		}
	default:
		err = fmt.Errorf("unknown verb %q", verb)
	}
	if err != nil {
		reply["error"] = err.Error()
	}
	return reply
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for lines.Scan() {
		if err := out.Encode(answer(lines.Text())); err != nil {
			fmt.Fprintln(os.Stderr, "cannot answer:", err)
			os.Exit(1)
		}
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "cannot read the question:", err)
		os.Exit(1)
	}
}
