// Package memnet is a network in memory, for tests that run in a [testing/synctest] bubble.
//
// A connection is two buffers and no goroutine. Whoever waits for one waits on a [sync.Cond] or a
// channel, so a bubble sees it as durably blocked and its clock can move on; deadlines are timers of
// the bubble. Make listeners and connections inside the bubble that uses them.
//
// A connection behaves as one over TCP does, but for three things: its addresses have the network
// "mem", [Conn.TryWrite] is there, and its faults are at hand: [Conn.Cut], [Conn.CutAfter], [Conn.CutAfterRead] and
// [Conn.Stall].
package memnet

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// An Option changes how the connections of a [Listener] or a [Pipe] behave.
type Option func(*config)

type config struct {
	buffer int
	short  int
	resets bool
}

func newConfig(opts []Option) config {
	c := config{buffer: 64 << 10}
	for _, o := range opts {
		o(&c)
	}
	return c
}

// WithBuffer sets how many bytes each direction holds before a write waits. The default is 64 KiB;
// less than 1 panics.
func WithBuffer(n int) Option {
	if n < 1 {
		panic("memnet: WithBuffer: a buffer needs a byte")
	}
	return func(c *config) { c.buffer = n }
}

// WithShortWrites lets [Conn.TryWrite] take at most n bytes a call. The default, 0, is no such limit.
func WithShortWrites(n int) Option {
	return func(c *config) { c.short = n }
}

// WithResetOnClose makes Close do what TCP does when input is left: with bytes unread, or when more
// come later, the connection is reset and the peer loses what it has not read. By default the peer
// reads the rest, and its writes fail.
func WithResetOnClose() Option {
	return func(c *config) { c.resets = true }
}

// Addr is an address in memory. It is a comparable "host:port", so it works as a key, and with
// [net.SplitHostPort].
type Addr string

// Network returns "mem".
func (Addr) Network() string { return "mem" }

func (a Addr) String() string { return string(a) }

// ports numbers the listeners of the process, so that no two have one address.
var ports atomic.Uint32

// A Listener is a [net.Listener] in memory. Its methods may run concurrently.
type Listener struct {
	cfg  config
	addr Addr

	conns chan *Conn    // unbuffered: a dial ends when its connection is accepted
	done  chan struct{} // closed by Close
	once  sync.Once
	dials atomic.Uint32
}

// Listen returns a listener with an address of its own.
func Listen(opts ...Option) *Listener {
	return &Listener{
		cfg:   newConfig(opts),
		addr:  Addr(fmt.Sprintf("192.0.2.1:%d", 1+ports.Add(1)%65535)), // TEST-NET-1, RFC 5737
		conns: make(chan *Conn),
		done:  make(chan struct{}),
	}
}

// Accept waits for a dial. It fails with [net.ErrClosed] once the listener is closed.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
	default:
		select {
		case c := <-l.conns:
			return c, nil
		case <-l.done:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: "mem", Addr: l.addr, Err: net.ErrClosed}
}

// Dial connects to the listener; the connection is a [*Conn]. It waits until the listener accepts,
// and fails with ECONNREFUSED when it is closed, or with ctx's error. Every dial has a local address
// of its own, the same in each run of a test that dials in the same order.
func (l *Listener) Dial(ctx context.Context) (net.Conn, error) {
	client, server := newPair(l.cfg, l.clientAddr(l.dials.Add(1)), l.addr)
	err := ctx.Err()
	select {
	case <-l.done:
		err = os.NewSyscallError("connect", syscall.ECONNREFUSED)
	case <-ctx.Done():
	default:
		select {
		case l.conns <- server:
			return client, nil
		case <-l.done:
			err = os.NewSyscallError("connect", syscall.ECONNREFUSED)
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return nil, &net.OpError{Op: "dial", Net: "mem", Source: client.local, Addr: l.addr, Err: err}
}

// clientAddr is the n-th address of 198.18.0.0/15, kept for benchmarks by RFC 2544.
func (l *Listener) clientAddr(n uint32) Addr {
	const first, span = 1024, 65536 - 1024
	host, port := n/span, first+n%span
	return Addr(fmt.Sprintf("198.18.%d.%d:%d", host>>8&255, host&255, port))
}

// DialContext is Dial in the form of [net/http.Transport], whatever the network and address.
func (l *Listener) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return l.Dial(ctx)
}

// Close stops the listener; connections that it has accepted live on. A second Close does nothing.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr returns the address, an [Addr].
func (l *Listener) Addr() net.Addr { return l.addr }

// Pipe returns the two ends of a connection, without a listener.
func Pipe(opts ...Option) (a, b *Conn) {
	n := ports.Add(2)
	addr := func(n uint32) Addr { return Addr(fmt.Sprintf("192.0.2.2:%d", 1+n%65535)) }
	return newPair(newConfig(opts), addr(n), addr(n+1))
}
