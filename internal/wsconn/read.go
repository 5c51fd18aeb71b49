package wsconn

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"nhooyr.io/websocket"
)

// Read returns the next message; the slice is the caller's until the next Read. Text is
// valid UTF-8. One goroutine may read, the same that calls Finish after Read has failed.
//
// The error is a [*CloseError], and once Read has failed, it fails. It fails as soon as
// the connection is closing, whoever closes; messages that arrive after Close are
// discarded. A peer that breaks the protocol is closed with 1002, for text that is not
// UTF-8 with 1007, for a message above the limit with 1009. The end of ctx ends the
// reading (code 1006) and nothing else: Close may follow.
func (c *Conn) Read(ctx context.Context) (Opcode, []byte, error) {
	c.freeMessage()
	if c.readError != nil {
		return 0, nil, c.readError
	}
	for {
		if c.reader == nil && len(c.input) == 0 && ctx.Done() == nil {
			// Nearly every connection waits here, and from here a goroutine's first stack, 2 KiB,
			// is enough to wait; from where next would wait it is not.
			if err := c.receive(); err != nil {
				return c.readFailed(ctx, err)
			}
		}
		if op, p, err := c.next(ctx); err != errNoMessage {
			return op, p, err
		}
	}
}

// errNoMessage means that what came was pings and pongs.
var errNoMessage = errors.New("no message yet")

// next is Read once it may need more than the smallest stack.
//
//go:noinline
func (c *Conn) next(ctx context.Context) (Opcode, []byte, error) {
	op, p, err := c.read(ctx)
	if err == errNoMessage {
		return 0, nil, err
	}
	if err == nil && op == OpText && !utf8.Valid(p) {
		c.Close(1007, "text is not UTF-8")
		err = errNotUTF8
	}
	select {
	case <-c.closing:
		err = errors.Join(err, ErrClosed)
	default:
	}
	if err != nil {
		return c.readFailed(ctx, err)
	}
	return op, p, nil
}

//go:noinline
func (c *Conn) readFailed(ctx context.Context, err error) (Opcode, []byte, error) {
	c.freeMessage()
	c.readError = c.ended(ctx, err)
	return 0, nil, c.readError
}

var (
	errNotUTF8 = errors.New("text is not UTF-8")
	errTooBig  = errors.New("message too big")
)

// tooBig is the close code that nhooyr sends for a message above the limit.
const tooBig = 1009

func (c *Conn) read(ctx context.Context) (Opcode, []byte, error) {
	if c.reader == nil {
		op, message, err := c.await(ctx)
		if err != nil || message != nil {
			return op, message, err
		}
		if err := c.attach(); err != nil {
			return 0, nil, err
		}
	}
	op, p, err := c.readWith(ctx, c.reader)
	if err != nil {
		c.dropReader()
		return 0, nil, err
	}
	c.detach()
	return op, p, nil
}

func (c *Conn) readWith(ctx context.Context, r *reader) (Opcode, []byte, error) {
	typ, m, err := r.ws.Reader(ctx)
	if err != nil {
		return 0, nil, err
	}
	p, err := c.readMessage(m)
	if err == nil && c.lost != nil {
		err = c.lost // nhooyr takes a message that was cut short behind its header for an empty one
	}
	if err == nil && c.deflated {
		raw := c.message
		p, err = c.inflate(p)
		freeMessage(raw)
	}
	c.deflated = false
	return Opcode(typ), p, err
}

// ended finds out why reading ended, and begins the closing where the peer is to be told.
func (c *Conn) ended(ctx context.Context, err error) *CloseError {
	c.mu.Lock()
	defer c.mu.Unlock()
	remote, isClose := errors.AsType[websocket.CloseError](err)
	c.peerClosed = isClose
	if c.end != nil {
		return c.end
	}
	code := int(remote.Code)
	switch {
	case isClose && utf8.ValidString(remote.Reason):
		c.close(&CloseError{Code: code, Reason: remote.Reason, Remote: true, Err: err}, closeFrame(code, ""))
	case isClose:
		c.refuse(1007, "close reason is not UTF-8", err)
	case c.lost != nil:
		c.mu.Unlock()
		c.fail(c.lost)
		c.mu.Lock()
	case ctx.Err() != nil:
		return &CloseError{Code: 1006, Err: ctx.Err()}
	case c.nhooyr == tooBig:
		c.refuse(tooBig, "message too big", err)
	default: // also where nhooyr wants to send nothing: unmasked frames, negative lengths
		c.refuse(1002, "protocol error", err)
	}
	return c.end
}

// refuse closes a peer that broke the rules. mu is held.
func (c *Conn) refuse(code int, reason string, cause error) {
	c.close(&CloseError{Code: code, Reason: reason, Err: cause}, closeFrame(code, reason))
}

// Sizes of message buffers: each message begins with the smallest, and takes the next
// when it has filled one, so that no more is held than four times what has arrived.
var messageSizes = [...]int{1 << 10, 4 << 10, 16 << 10, 64<<10 + 512}

var messagePools [len(messageSizes)]sync.Pool // of *[]byte

func newMessage(size int) *[]byte {
	for i, s := range messageSizes {
		if size <= s {
			if p, ok := messagePools[i].Get().(*[]byte); ok {
				return p
			}
			size = s
			break
		}
	}
	p := make([]byte, size)
	return &p
}

func freeMessage(p *[]byte) {
	for i, s := range messageSizes {
		if len(*p) == s {
			messagePools[i].Put(p)
		}
	}
}

// freeMessage gives the last message's buffer back. Reading goroutine only.
func (c *Conn) freeMessage() {
	if c.message != nil {
		freeMessage(c.message)
		c.message = nil
	}
}

// readMessage reads to the end of a message, into a buffer that freeMessage gives back.
func (c *Conn) readMessage(r io.Reader) ([]byte, error) {
	c.message = newMessage(messageSizes[0])
	n := 0
	for {
		if n == len(*c.message) {
			larger := newMessage(4 * n)
			copy(*larger, *c.message)
			freeMessage(c.message)
			c.message = larger
		}
		m, err := r.Read((*c.message)[n:])
		n += m
		if err == io.EOF {
			return (*c.message)[:n], nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// discardInput reads until the peer closes or the read deadline has passed.
func (c *Conn) discardInput() {
	buf := newMessage(messageSizes[1])
	defer freeMessage(buf)
	for {
		if _, err := c.conn.Read(*buf); err != nil {
			return
		}
	}
}

const (
	// drainWait is how long input may be on its way where a read can't be tried.
	drainWait = 10 * time.Millisecond

	// maxDrain bounds the reads (4 KiB) of drainInput: 16 MiB, more than a socket holds
	// (Linux: 6 MiB at most, net.ipv4.tcp_rmem).
	maxDrain = 4096
)

// drainInput discards what has arrived after the peer's close frame, and waits for no more.
// A socket that is closed with unread input is reset, and the reset may overtake the close
// frame. What TLS would make of the input does not matter any more.
func (c *Conn) drainInput() {
	conn := below(c.conn)
	read := newTryReader(conn)
	var deadline time.Time
	if read == nil {
		read, deadline = conn.Read, time.Now().Add(drainWait)
	}
	c.mu.Lock() // setFlushed has set the deadline of discardInput
	conn.SetReadDeadline(deadline)
	c.mu.Unlock()
	buf := newMessage(messageSizes[1])
	defer freeMessage(buf)
	for range maxDrain {
		if n, err := read(*buf); n == 0 || err != nil {
			return
		}
	}
}
