// Package wsconn is the server's side of a WebSocket: nhooyr.io/websocket reads, and
// beside it ready frames are written, shared by any number of connections.
//
// # What a connection promises
//
//   - Nobody waits for a slow socket but who asks to: [Conn.Send], [Conn.SendNow],
//     [Conn.Ping], [Conn.Close] and [Conn.Abort] never block, and neither does the reading
//     goroutine when it answers a ping.
//   - Frames go out whole and in the order of the calls. Pings and pongs go before what
//     waits, never inside a frame. A later pong replaces one that still waits.
//   - Exactly one close frame goes out, after what was queued, and nothing follows it;
//     then the peer has CloseTimeout to read it, also while it is still sending. A peer that
//     can't take what is queued within WriteTimeout after Close sees no close frame.
//   - A slow peer is not cut for being slow: each write has WriteTimeout in which at least
//     one byte must move. (Over TLS, whose state does not survive a write cut short, in
//     which up to 16 KiB must.)
//   - Memory is bounded. Of what waits, QueueMessages and QueueBytes bound what came by Send,
//     and half of them and one batch what came by SendWait; what SendNow was given comes on
//     top, and so do 64 KiB or one frame that is being written, and one batch that came when
//     nothing waited, whatever its size. What waits for all connections together is bounded by
//     their [Budget].
//
// The socket has an owner while it is written to: the goroutine whose Send tries to write
// at once, or the writer, a goroutine that lives until the queue is empty. Who finds it
// owned leaves what it has in the queue. At rest a connection has no owner, no goroutine of
// this package and, between messages, nothing of nhooyr's: see [Readers].
package wsconn

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrFull means that the connection's queue is at its bound; nothing was taken.
	ErrFull = errors.New("hub: send queue full")

	// ErrClosed means that the connection is closing or closed; nothing was taken.
	ErrClosed = errors.New("hub: connection closed")
)

// A CloseError says how a connection ended.
type CloseError struct {
	Code   int    // of the close frame; 1005: the peer's had none; 1006: there was no close frame
	Reason string // of the close frame
	Remote bool   // the peer closed, not we
	Err    error  // the cause, where there is one
}

func (e *CloseError) Error() string {
	by := "by us"
	switch {
	case e.Code == 1006:
		return fmt.Sprintf("hub: connection lost: %v", e.Err)
	case e.Remote:
		by = "by the peer"
	}
	if e.Reason == "" {
		return fmt.Sprintf("hub: connection closed %s: %d", by, e.Code)
	}
	return fmt.Sprintf("hub: connection closed %s: %d %q", by, e.Code, e.Reason)
}

func (e *CloseError) Unwrap() error { return e.Err }

// A Conn is a socket, server's side. Read and Finish belong to the reading goroutine; the
// other methods may be called concurrently.
type Conn struct {
	// What a send looks at lies in two cache lines: a room's next message finds few of its
	// thousands of connections in the cache.
	mu         sync.Mutex // guards what follows up to conn; never held over a write
	owned      bool       // somebody writes to the socket, or is about to
	closeBegun bool       // somebody began to write the close frame: nothing may follow
	isFlushed  bool       // flushed is closed
	ping       bool       // a ping waits
	peerClosed bool       // Read has come to the peer's close frame
	finishing  bool       // Finish has begun: the read deadline is its own

	end        *CloseError // how the connection ended: who sets it first, wins
	try        tryWriter   // not changed once set; nil: no fast path
	partial    []byte      // the rest of a frame that was begun: goes first
	pong       []byte      // a pong that waits
	closeFrame []byte      // the close frame, until somebody begins to write it
	queue      queue       // data that waits

	begun        item          // the data frame that partial is of; a control frame's has no frame
	flying       []item        // what is in flight, but for partial, which begun has
	inFlight     load          // data that is not in the queue any more, and not known to be written
	inFlightKept load          // of that, what Send's bound does not count
	lowWater     chan struct{} // where not nil, somebody waits for the queue to be half empty
	closeBy      time.Time     // when the close frame must be written

	conn        net.Conn
	socket      *rawSocket // nil: no descriptor to wait on
	readers     *Readers   // nil: none are shared
	readLimit   int64
	subprotocol string
	deflates    bool

	maxFrames, maxBytes        int
	writeTimeout, closeTimeout time.Duration
	gapFrame                   func(stream any, after, before uint64, missed int) *Frame

	accepted time.Time
	lastRead atomic.Int64 // nanoseconds after accepted

	// Reading goroutine only.
	input     []byte  // arrived, and not given to a reader yet
	inputBuf  *[]byte // where not nil, input is in it, and freeMessage takes it back
	small     []byte  // where input comes with no descriptor
	reader    *reader // nil while the connection is at rest
	deflated  bool    // the message that it reads is
	lost      error   // the transport's read error
	nhooyr    int     // the code of the close frame that nhooyr wanted to send
	message   *[]byte
	readError error // Read failed, and fails again

	closing  chan struct{} // closed when the end begins: ErrClosed from then on
	flushed  chan struct{} // closed when nothing will be written any more
	finished chan struct{} // closed when Finish is done
	writer   sync.WaitGroup
}

func newConn(o *Options, subprotocol string) *Conn {
	return &Conn{
		subprotocol:  subprotocol,
		maxFrames:    or(o.QueueMessages, defaultQueueMessages),
		maxBytes:     or(o.QueueBytes, defaultQueueBytes),
		writeTimeout: or(o.WriteTimeout, defaultWriteTimeout),
		closeTimeout: or(o.CloseTimeout, defaultCloseTimeout),
		gapFrame:     o.GapFrame,
		readers:      o.Readers,
		readLimit:    or(o.ReadLimit, defaultReadLimit),
		queue:        queue{tell: o.GapFrame != nil, tally: tally{budget: o.Budget}},
		accepted:     time.Now(),
		closing:      make(chan struct{}),
		flushed:      make(chan struct{}),
		finished:     make(chan struct{}),
	}
}

func (c *Conn) start(conn net.Conn, early []byte) {
	c.conn, c.socket, c.input = conn, newRawSocket(conn), early
	c.try = newTryWriter(conn, c.socket)
	if tcp, ok := below(conn).(*net.TCPConn); ok && c.try == nil {
		tcp.SetWriteBuffer(queueOnlySndbuf)
	}
}

// queueOnlySndbuf is the kernel's buffer of a socket without the fast path. Linux wakes a
// writer when a third of the buffer is free: of the 4 MiB that it grows to by itself, a peer
// that reads 100 KB/s frees less in 10 s, and with no TryWrite nothing shows that it lives.
const queueOnlySndbuf = 64 << 10

// below returns the connection that carries a tls.Conn, or conn itself.
func below(conn net.Conn) net.Conn {
	for {
		u, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = u.NetConn()
	}
}

// Subprotocol returns the one agreed on, spelled as in the options, or "".
func (c *Conn) Subprotocol() string { return c.subprotocol }

// Deflates tells whether permessage-deflate was agreed on, so that deflated frames may go out.
func (c *Conn) Deflates() bool { return c.deflates }

// RemoteAddr returns the peer's address, or a proxy's.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// LastRead tells when bytes last arrived; at first, when the connection was made.
func (c *Conn) LastRead() time.Time { return c.accepted.Add(time.Duration(c.lastRead.Load())) }

// Queued returns what is waiting or being written: frames, and their bytes.
func (c *Conn) Queued() (frames, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.queue.all().plus(c.inFlight)
	return l.frames, l.bytes
}

// Close begins the end: what is queued goes out, then one close frame, and nothing after
// it. It never blocks; the first call wins, also against the peer's close frame. The
// reason is cut to 123 bytes. A close frame may carry 1000 to 1003, 1007 to 1014 and 3000
// to 4999; for any other code it goes with neither code nor reason.
func (c *Conn) Close(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.close(&CloseError{Code: code, Reason: cutReason(reason)}, closeFrame(code, reason))
}

// close is Close with mu held, which it releases while it writes.
func (c *Conn) close(end *CloseError, frame []byte) {
	if c.end != nil {
		return
	}
	c.end = end
	c.closeFrame = frame
	c.closeBy = time.Now().Add(c.writeTimeout)
	close(c.closing)
	c.wakeReader()
	c.writeClose()
}

// wakeReader ends a Read that waits for the peer. mu is held.
func (c *Conn) wakeReader() {
	if !c.finishing {
		c.conn.SetReadDeadline(past)
	}
}

// past is a deadline that has passed, on any clock.
var past = time.Unix(1, 0)

// Abort closes the transport at once, whatever is queued. It never blocks.
func (c *Conn) Abort() { c.fail(errAborted) }

var errAborted = errors.New("aborted")

// fail is the end without a close frame: the transport is lost, or given up.
func (c *Conn) fail(cause error) {
	c.mu.Lock()
	if c.end == nil {
		c.end = &CloseError{Code: 1006, Err: cause}
		close(c.closing)
	}
	c.setFlushed()
	c.mu.Unlock()
	c.closeTransport()
}

// setFlushed says that nothing will be written any more. mu is held.
func (c *Conn) setFlushed() {
	if c.isFlushed {
		return
	}
	c.isFlushed = true
	c.queue.clear()
	c.dropBegun()
	c.partial, c.pong, c.ping, c.closeFrame = nil, nil, false, nil
	c.inFlight, c.inFlightKept = load{}, load{}
	close(c.flushed)
	if c.finishing {
		c.conn.SetReadDeadline(c.discardBy())
	}
}

// closeTransport closes the socket at once: no TLS alert is written, and the kernel
// keeps nothing of what a peer that does not read was sent.
func (c *Conn) closeTransport() {
	conn := below(c.conn)
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// Finish ends the connection after Read has failed: it waits until the queue and the
// close frame are written (WriteTimeout after Close at most), discards input until the
// peer closes (CloseTimeout at most), and closes the transport. Where Read had come to the
// peer's close frame, nothing is left to wait for once ours is written: then it closes at
// once (RFC 6455, section 7.1.1: the server closes first). Where no close frame was
// chosen, it closes the transport at once. When it returns, nothing of c is running. It
// may be called again.
func (c *Conn) Finish() {
	c.mu.Lock()
	if c.finishing {
		c.mu.Unlock()
		<-c.finished
		return
	}
	c.finishing = true
	if c.end == nil {
		c.mu.Unlock()
		c.fail(errNotClosed)
	} else {
		c.conn.SetReadDeadline(c.discardBy())
		peerClosed := c.peerClosed
		c.mu.Unlock()
		c.discardInput()
		<-c.flushed
		if peerClosed {
			c.drainInput()
		}
	}
	c.conn.Close()
	c.writer.Wait()
	c.dropReader()
	if c.inputBuf != nil {
		c.consume(len(c.input))
	}
	close(c.finished)
}

// discardBy is when Finish stops discarding input. mu is held.
func (c *Conn) discardBy() time.Time {
	switch {
	case !c.isFlushed:
		return c.closeBy.Add(c.closeTimeout)
	case c.peerClosed:
		return past
	default:
		return time.Now().Add(c.closeTimeout)
	}
}

var errNotClosed = errors.New("given up with no close frame")
