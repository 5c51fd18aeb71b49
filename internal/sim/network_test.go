package sim

import (
	"context"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/chathub-go/hub/internal/memnet"
)

// A network leads clients to the hubs, and loses what it was given.
type network struct {
	seed   uint64
	faulty bool

	mu    sync.Mutex // guards what follows
	doors []*memnet.Listener
	links map[*link]struct{} // all that there ever were
	open  int                // ends that were not closed
	calm  bool               // nothing goes wrong any more
}

// A link is the client's end of a connection.
type link struct {
	*memnet.Conn
	n     *network
	hub   int
	once  sync.Once
	timer *time.Timer
	cut   bool // is to be cut at a byte
}

func newNetwork(seed uint64, hubs int, faulty bool) *network {
	return &network{seed: seed, faulty: faulty, doors: make([]*memnet.Listener, hubs), links: map[*link]struct{}{}}
}

// listen lets clients come to a hub.
func (n *network) listen(hub int, opts ...memnet.Option) net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := memnet.Listen(opts...)
	n.doors[hub] = l
	return &listener{l, n}
}

// A listener counts the hub's ends.
type listener struct {
	*memnet.Listener
	n *network
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.n.opened()
	return &hubEnd{Conn: c.(*memnet.Conn), n: l.n}, nil
}

// A hubEnd is the hub's end of a connection.
type hubEnd struct {
	*memnet.Conn
	n    *network
	once sync.Once
}

func (c *hubEnd) TryWrite(p []byte) (int, error) {
	n, err := c.Conn.TryWrite(p)
	if err == nil && n < len(p) {
		count("fast path wrote short")
	}
	return n, err
}

func (c *hubEnd) Close() error {
	c.once.Do(c.n.closed)
	return c.Conn.Close()
}

func (n *network) opened() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open++
}

func (n *network) closed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open--
}

// dial is a client's dial-th connection. What becomes of it is drawn from these numbers.
func (n *network) dial(ctx context.Context, hub, client, dial int) (*link, error) {
	n.mu.Lock()
	door, calm := n.doors[hub], n.calm
	n.mu.Unlock()
	if door == nil {
		return nil, syscall.ECONNREFUSED
	}
	c, err := door.Dial(ctx)
	if err != nil {
		return nil, err
	}
	l := &link{Conn: c.(*memnet.Conn), n: n, hub: hub}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open++
	n.links[l] = struct{}{}
	if n.faulty && !calm && !n.calm {
		l.curse(rand.New(rand.NewPCG(n.seed, uint64(client)<<32|uint64(dial)<<8|'n')))
	}
	if n.doors[hub] != door { // the hub was killed meanwhile
		l.Cut()
	}
	return l, nil
}

// curse draws what goes wrong with a link. n.mu is held.
func (l *link) curse(r *rand.Rand) {
	kind, size, when, long := r.Float64(), r.Float64(), r.Float64(), r.Float64()
	at := time.Duration(when * when * float64(6*time.Second))
	switch {
	case kind < 0.17: // of what the hub sends, the answer to the handshake included
		l.cut = true
		l.CutAfterRead(int64(math.Exp(size * math.Log(200_000))))
	case kind < 0.32:
		l.cut = true
		l.CutAfter(int64(math.Exp(size * math.Log(50_000))))
	case kind < 0.40:
		l.timer = time.AfterFunc(at, func() {
			count("cut at a time")
			l.Cut()
		})
	case kind < 0.50:
		l.stall(at, time.Duration(long*float64(4*time.Second)))
	case kind < 0.55: // half open
		count("half open")
		l.stall(at, time.Hour)
	}
}

func (l *link) stall(at, long time.Duration) {
	count("stalled")
	l.timer = time.AfterFunc(at, func() {
		l.n.mu.Lock()
		defer l.n.mu.Unlock()
		if l.n.calm {
			return
		}
		l.Stall(true)
		l.timer.Stop()
		l.timer = time.AfterFunc(long, func() { l.Stall(false) })
	})
}

// abandon is what a client does that loses its network: the hub does not hear of it for a while.
func (l *link) abandon(long time.Duration) {
	l.n.mu.Lock()
	calm := l.n.calm
	l.n.mu.Unlock()
	if !calm {
		count("abandoned")
		l.Stall(true)
		time.AfterFunc(long, func() { l.Stall(false) })
	}
}

func (l *link) Close() error {
	l.once.Do(func() {
		l.n.mu.Lock()
		defer l.n.mu.Unlock()
		l.n.open--
		if l.cut {
			if _, err := l.TryWrite(nil); err != nil {
				count("cut at a byte")
			}
		}
	})
	return l.Conn.Close()
}

// sever takes a hub off the network, with no word to anybody.
func (n *network) sever(hub int) {
	n.shut(hub)
	n.mu.Lock()
	defer n.mu.Unlock()
	for l := range n.links {
		if l.hub == hub {
			l.Cut()
		}
	}
}

// shut lets nobody come to a hub.
func (n *network) shut(hub int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if d := n.doors[hub]; d != nil {
		_ = d.Close()
		n.doors[hub] = nil
	}
}

// heal ends all faults.
func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calm = true
	for l := range n.links {
		if l.timer != nil {
			l.timer.Stop()
		}
		l.CutAfter(-1)
		l.CutAfterRead(-1)
		l.Stall(false)
	}
}
