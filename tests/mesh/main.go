// A peer of a mesh that others wrote: Debian's golang-github-weaveworks-mesh-dev, as it is.
//
// Lines of standard input tell it what to do:
//
//	dial ADDRESS                 connects, now and again
//	unicast CHANNEL PEER HEX     to one peer
//	broadcast CHANNEL HEX        to all peers
//	state CHANNEL HEX            what it gossips to each new neighbour from now on
//	status                       answered by a line of the event "status"
//
// Lines of standard output say what happened, each with an "event": "ready", "connection" (somebody was introduced),
// "unicast", "broadcast", "gossip" (a message of a channel named by -channels), "status", "log" (the library's own words).
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/weaveworks/mesh"
)

type event map[string]interface{}

// One line for each event, whole, whoever says it.
var say = func() func(event) {
	var lock sync.Mutex
	out := json.NewEncoder(os.Stdout)
	return func(e event) {
		lock.Lock()
		defer lock.Unlock()
		if out.Encode(e) != nil {
			os.Exit(1)
		}
	}
}()

type logger struct{}

func (logger) Printf(format string, args ...interface{}) {
	say(event{"event": "log", "text": fmt.Sprintf(format, args...)})
}

// ===== overlay: carries nothing, and tells what the other end offered =====

type overlay struct {
	mesh.NullOverlay
	offered string
	sleeve  *sleeve // nil: a connection needs nothing more to be established
}

func (o overlay) AddFeaturesTo(features map[string]string) {
	if o.offered != "" {
		features["Overlays"] = o.offered
	}
}

func (o overlay) PrepareConnection(params mesh.OverlayConnectionParams) (mesh.OverlayConnection, error) {
	say(event{
		"event":    "connection",
		"peer":     params.RemotePeer.Name.String(),
		"outbound": params.Outbound,
		"secret":   params.SessionKey != nil, // The overlay is to encrypt.
		"offers":   params.Features["Overlays"],
	})
	if o.sleeve != nil {
		return o.sleeve.prepare(params), nil
	}
	return mesh.NullOverlay{}, nil
}

// ===== channels =====

type channel struct {
	name   string
	gossip mesh.Gossip
	lock   sync.Mutex
	state  []byte
	heard  map[string]bool
}

func (c *channel) tell(kind string, from mesh.PeerName, message []byte) {
	say(event{"event": kind, "channel": c.name, "from": from.String(), "hex": hex.EncodeToString(message)})
}

func (c *channel) OnGossipUnicast(from mesh.PeerName, message []byte) error {
	c.tell("unicast", from, message)
	return nil
}

func (c *channel) OnGossipBroadcast(from mesh.PeerName, message []byte) (mesh.GossipData, error) {
	c.tell("broadcast", from, message)
	return messages{message}, nil
}

func (c *channel) Gossip() mesh.GossipData {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.state == nil {
		return nil
	}
	return messages{c.state}
}

// What is heard for the first time is passed on.
func (c *channel) OnGossip(message []byte) (mesh.GossipData, error) {
	c.tell("gossip", mesh.UnknownPeerName, message)
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.heard[string(message)] {
		return nil, nil
	}
	c.heard[string(message)] = true
	return messages{message}, nil
}

func (c *channel) setState(state []byte) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.state = state
}

// Messages that are sent one by one.
type messages [][]byte

func (m messages) Encode() [][]byte { return m }

func (m messages) Merge(other mesh.GossipData) mesh.GossipData {
	return append(append(messages{}, m...), other.(messages)...)
}

// ===== orders =====

type peer struct {
	router   *mesh.Router
	channels map[string]*channel
}

func (p *peer) obey(line string) error {
	words := strings.Fields(line)
	switch {
	case len(words) == 2 && words[0] == "dial":
		if errs := p.router.ConnectionMaker.InitiateConnections(words[1:], false); len(errs) > 0 {
			return errs[0]
		}
		return nil
	case len(words) == 1 && words[0] == "status":
		say(event{"event": "status", "status": mesh.NewStatus(p.router)})
		return nil
	case len(words) < 3:
		return fmt.Errorf("cannot obey %q", line)
	}
	channel, known := p.channels[words[1]]
	message, err := hex.DecodeString(words[len(words)-1])
	switch {
	case !known:
		return fmt.Errorf("no channel %q", words[1])
	case err != nil:
		return err
	case len(words) == 4 && words[0] == "unicast":
		to, err := mesh.PeerNameFromString(words[2])
		if err != nil {
			return err
		}
		return channel.gossip.GossipUnicast(to, message)
	case len(words) == 3 && words[0] == "broadcast":
		channel.gossip.GossipBroadcast(messages{message})
		return nil
	case len(words) == 3 && words[0] == "state":
		channel.setState(message)
		return nil
	}
	return fmt.Errorf("cannot obey %q", line)
}

func run() error {
	var config mesh.Config
	name := flag.String("name", "", "name of the peer")
	nickname := flag.String("nickname", "", "nickname of the peer")
	password := flag.String("password", "", "password of the mesh")
	trusted := flag.String("trusted", "", "a network that needs no encryption")
	offered := flag.String("overlays", "", "overlays to offer")
	heartbeats := flag.Bool("sleeve", false, "be established by heartbeats over UDP only")
	channels := flag.String("channels", "", "channels to take part in, joined by commas")
	flag.StringVar(&config.Host, "host", "127.0.0.1", "address to listen on")
	flag.IntVar(&config.Port, "port", mesh.Port, "port to listen on, the same for all peers")
	flag.IntVar(&config.ConnLimit, "conn-limit", 0, "connections at most, 0 for any number")
	flag.BoolVar(&config.PeerDiscovery, "discovery", false, "dial peers that others mention")
	flag.Parse()

	config.ProtocolMinVersion = mesh.ProtocolMinVersion
	if *password != "" {
		config.Password = []byte(*password)
	}
	if *trusted != "" {
		_, network, err := net.ParseCIDR(*trusted)
		if err != nil {
			return err
		}
		config.TrustedSubnets = []*net.IPNet{network}
	}
	own, err := mesh.PeerNameFromString(*name)
	if err != nil {
		return err
	}
	overlay := overlay{offered: *offered}
	if *heartbeats {
		if overlay.sleeve, err = listen(own, config); err != nil {
			return err
		}
	}
	router, err := mesh.NewRouter(config, own, *nickname, overlay, logger{})
	if err != nil {
		return err
	}
	peer := peer{router, map[string]*channel{}}
	for _, name := range strings.Split(*channels, ",") {
		if name == "" {
			continue
		}
		channel := &channel{name: name, heard: map[string]bool{}}
		if channel.gossip, err = router.NewGossip(name, channel); err != nil {
			return err
		}
		peer.channels[name] = channel
	}
	router.Start()
	say(event{"event": "ready"})

	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if err := peer.obey(lines.Text()); err != nil {
			say(event{"event": "log", "text": err.Error()})
		}
	}
	return lines.Err()
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
