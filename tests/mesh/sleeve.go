// What this peer does of Weave Net's overlay "sleeve": heartbeats over UDP, and the word that they arrive.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/weaveworks/mesh"
	"golang.org/x/crypto/nacl/secretbox"
)

const (
	controlTag  = 7
	wholeBit    = uint64(1) << 63
	established = 1
)

// The UDP port, and who is at the other end.
type sleeve struct {
	own    []byte
	socket *net.UDPConn
	lock   sync.Mutex
	conns  map[string]*sleeveConnection
}

func listen(own mesh.PeerName, config mesh.Config) (*sleeve, error) {
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(config.Host), Port: config.Port})
	if err != nil {
		return nil, err
	}
	s := &sleeve{own: nameBytes(own), socket: socket, conns: map[string]*sleeveConnection{}}
	go s.read()
	return s, nil
}

func (s *sleeve) read() {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := s.socket.ReadFromUDP(buffer)
		if err != nil {
			return
		}
		if n < 6 {
			continue
		}
		s.lock.Lock()
		conn := s.conns[string(buffer[:6])]
		s.lock.Unlock()
		if conn != nil {
			conn.hear(from, append([]byte{}, buffer[6:n]...))
		}
	}
}

// One end of the overlay beside one connection.
type sleeveConnection struct {
	mesh.NullOverlay
	sleeve *sleeve
	params mesh.OverlayConnectionParams
	theirs []byte
	lock   sync.Mutex
	remote *net.UDPAddr
	sent   uint64
	told   bool
	once   sync.Once
	up     chan struct{}
	stop   chan struct{}
}

func (s *sleeve) prepare(params mesh.OverlayConnectionParams) mesh.OverlayConnection {
	conn := &sleeveConnection{
		sleeve: s, params: params, theirs: nameBytes(params.RemotePeer.Name),
		up: make(chan struct{}), stop: make(chan struct{}),
	}
	if params.Outbound {
		conn.remote = &net.UDPAddr{IP: params.RemoteAddr.IP, Port: params.RemoteAddr.Port}
	}
	return conn
}

func (c *sleeveConnection) Confirm() {
	c.sleeve.lock.Lock()
	c.sleeve.conns[string(c.theirs)] = c
	c.sleeve.lock.Unlock()
	go func() {
		for tick := time.NewTicker(200 * time.Millisecond); ; {
			c.beat()
			select {
			case <-tick.C:
			case <-c.stop:
				tick.Stop()
				return
			}
		}
	}()
}

func (c *sleeveConnection) EstablishedChannel() <-chan struct{} { return c.up }

func (c *sleeveConnection) Stop() { close(c.stop) }

func (c *sleeveConnection) ControlMessage(tag byte, message []byte) {
	if tag == controlTag && bytes.Equal(message, []byte{0, established}) {
		c.once.Do(func() { close(c.up) })
	} else {
		say(event{"event": "log", "text": fmt.Sprintf("strange control message %d %x", tag, message)})
	}
}

func (c *sleeveConnection) frame(from, to []byte) []byte {
	number := make([]byte, 8)
	binary.BigEndian.PutUint64(number, c.params.ConnUID)
	return bytes.Join([][]byte{from, to, {0, 22}, make([]byte, 14), number}, nil)
}

func nonce(byDialler bool, number uint64) *[24]byte {
	var nonce [24]byte
	if byDialler {
		nonce[0] = 0x80
	}
	binary.BigEndian.PutUint64(nonce[16:], number)
	return &nonce
}

func (c *sleeveConnection) beat() {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.remote == nil {
		return
	}
	body := c.frame(c.sleeve.own, c.theirs)
	if key := c.params.SessionKey; key != nil {
		number := c.sent | wholeBit
		c.sent++
		head := make([]byte, 8)
		binary.BigEndian.PutUint64(head, number)
		body = secretbox.Seal(head, body, nonce(c.params.Outbound, number), key)
	}
	c.sleeve.socket.WriteToUDP(append(append([]byte{}, c.sleeve.own...), body...), c.remote)
}

func (c *sleeveConnection) hear(from *net.UDPAddr, body []byte) {
	if key := c.params.SessionKey; key != nil {
		if len(body) < 8 {
			return
		}
		opened, fits := secretbox.Open(nil, body[8:], nonce(!c.params.Outbound, binary.BigEndian.Uint64(body)), key)
		if !fits {
			say(event{"event": "log", "text": "a datagram cannot be opened"})
			return
		}
		body = opened
	}
	if !bytes.Equal(body, c.frame(c.theirs, c.sleeve.own)) {
		say(event{"event": "log", "text": fmt.Sprintf("strange datagram %x", body)})
		return
	}
	c.lock.Lock()
	c.remote = from
	first := !c.told
	c.told = true
	c.lock.Unlock()
	if first {
		c.params.SendControlMessage(controlTag, []byte{0, established})
	}
}

func nameBytes(name mesh.PeerName) []byte {
	bytes := make([]byte, 8)
	binary.BigEndian.PutUint64(bytes, uint64(name))
	return bytes[2:]
}
