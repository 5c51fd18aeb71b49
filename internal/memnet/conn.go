package memnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A Conn is one end of a connection. Its methods may run concurrently; a Write is never mixed with
// another one.
//
// Errors are as those of package net: [os.ErrDeadlineExceeded], [net.ErrClosed] for what was closed
// at this end, EPIPE for a write that nobody will read, ECONNRESET after a cut, each in a
// [*net.OpError].
type Conn struct {
	link          *link
	in, out       *half // what it reads from and writes to; the peer has them the other way round
	local, remote Addr
}

// A link is what both ends share.
type link struct {
	cfg  config
	ends [2]*Conn

	mu      sync.Mutex // guards reset, stalled and both halves; never held over a wait
	reset   bool       // cut: all that is buffered is lost
	stalled bool       // nothing arrives, neither bytes nor the news of a close
}

// A half is one direction. The link's mu guards all of it.
type half struct {
	link     *link
	readable sync.Cond // bytes, the end of them, or the read deadline came
	writable sync.Cond // space, the end of reading, the write deadline, or a Write's turn came

	buf       []byte // accepted, not read yet: buf[off:]
	off       int
	cutAfter  int64 // the reader gets so many more bytes, then the link is cut; -1: never
	writing   bool  // a Write is under way, so another waits for its turn
	writeDone bool  // the writer closed this direction
	gone      bool  // the writer closed both
	readDone  bool  // the reader closed both

	readDeadline, writeDeadline deadline
}

func newPair(cfg config, a, b Addr) (*Conn, *Conn) {
	l := &link{cfg: cfg}
	ab, ba := newHalf(l), newHalf(l)
	l.ends = [2]*Conn{
		{link: l, in: ba, out: ab, local: a, remote: b},
		{link: l, in: ab, out: ba, local: b, remote: a},
	}
	return l.ends[0], l.ends[1]
}

func newHalf(l *link) *half {
	h := &half{link: l, cutAfter: -1}
	h.readable.L, h.writable.L = &l.mu, &l.mu
	h.readDeadline.cond, h.writeDeadline.cond = &h.readable, &h.writable
	return h
}

// Read waits for at least one byte. It returns [io.EOF] when the peer has closed and all is read.
func (c *Conn) Read(p []byte) (int, error) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	for {
		n, wait, err := c.in.read(p)
		if err == io.EOF {
			return 0, io.EOF
		}
		if err != nil {
			return 0, c.opError("read", err)
		}
		if !wait {
			return n, nil
		}
		c.in.readable.Wait()
	}
}

// read takes what is there; wait tells that there is nothing yet.
func (h *half) read(p []byte) (n int, wait bool, err error) {
	l := h.link
	switch {
	case h.readDone:
		return 0, false, net.ErrClosed
	case l.reset:
		return 0, false, os.NewSyscallError("read", syscall.ECONNRESET)
	case h.readDeadline.passed():
		return 0, false, os.ErrDeadlineExceeded
	case len(p) == 0:
		return 0, false, nil
	case l.stalled:
		return 0, true, nil
	case h.waiting() == 0:
		if h.writeDone {
			return 0, false, io.EOF
		}
		return 0, true, nil
	}
	if h.cutAfter >= 0 && int64(len(p)) > h.cutAfter {
		p = p[:h.cutAfter]
	}
	n = copy(p, h.buf[h.off:])
	h.off += n
	if h.waiting() == 0 {
		h.buf, h.off = h.buf[:0], 0
	}
	h.writable.Broadcast()
	if h.cutAfter >= 0 {
		if h.cutAfter -= int64(n); h.cutAfter == 0 {
			l.cut()
		}
	}
	return n, false, nil
}

// Write waits until the buffer has taken all of p, or something fails; then n tells how much it took.
func (c *Conn) Write(p []byte) (n int, err error) {
	h := c.out
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	for h.writing {
		if err := h.writeErr(); err != nil {
			return 0, c.opError("write", err)
		}
		h.writable.Wait()
	}
	h.writing = true
	defer func() {
		h.writing = false
		h.writable.Broadcast()
	}()
	for {
		m, err := h.write(p[n:])
		n += m
		if err != nil {
			return n, c.opError("write", err)
		}
		if n == len(p) {
			return n, nil
		}
		h.writable.Wait()
	}
}

// TryWrite writes what the buffer takes at once and never waits: n < len(p) with no error means that
// the rest does not fit now. It takes nothing while a Write waits for space. [WithShortWrites] bounds
// what one call takes.
func (c *Conn) TryWrite(p []byte) (n int, err error) {
	h := c.out
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if err := h.writeErr(); err != nil {
		return 0, c.opError("write", err)
	}
	if h.writing {
		return 0, nil
	}
	if k := c.link.cfg.short; k > 0 && len(p) > k {
		p = p[:k]
	}
	if n, err = h.write(p); err != nil {
		return n, c.opError("write", err)
	}
	return n, nil
}

// write takes what fits of p.
func (h *half) write(p []byte) (int, error) {
	l := h.link
	if err := h.writeErr(); err != nil {
		return 0, err
	}
	if h.readDone && !l.stalled {
		l.cut() // WithResetOnClose: the bytes are taken, and the reset comes back
		return len(p), nil
	}
	n := min(len(p), l.cfg.buffer-h.waiting())
	if n == 0 {
		return 0, nil
	}
	if h.off > 0 && len(h.buf)+n > cap(h.buf) {
		h.buf = h.buf[:copy(h.buf, h.buf[h.off:])]
		h.off = 0
	}
	h.buf = append(h.buf, p[:n]...)
	h.readable.Broadcast()
	return n, nil
}

func (h *half) writeErr() error {
	l := h.link
	switch {
	case h.gone:
		return net.ErrClosed
	case l.reset:
		return os.NewSyscallError("write", syscall.ECONNRESET)
	case h.writeDone:
		return os.NewSyscallError("write", syscall.EPIPE)
	case h.writeDeadline.passed():
		return os.ErrDeadlineExceeded
	case h.readDone && !l.stalled && !l.cfg.resets:
		return os.NewSyscallError("write", syscall.EPIPE)
	}
	return nil
}

func (h *half) waiting() int { return len(h.buf) - h.off }

// CloseWrite ends this direction: the peer reads the rest and then EOF; writes here fail with EPIPE.
func (c *Conn) CloseWrite() error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.in.readDone {
		return c.opError("close", net.ErrClosed)
	}
	c.out.endWrite()
	return nil
}

// Close ends both directions: the peer reads the rest and then EOF, and its writes fail with EPIPE
// (see [WithResetOnClose] for another way). Reads and writes that wait here end with [net.ErrClosed],
// and so does a second Close.
func (c *Conn) Close() error {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.in.readDone {
		return c.opError("close", net.ErrClosed)
	}
	c.in.endRead()
	c.out.gone = true
	c.out.endWrite()
	l.resetUnread()
	return nil
}

func (h *half) endWrite() {
	h.writeDone = true
	h.writeDeadline.stop()
	h.wake()
}

func (h *half) endRead() {
	h.readDone = true
	h.readDeadline.stop()
	h.wake()
}

// resetUnread does what WithResetOnClose says about bytes that a closed end has not read.
func (l *link) resetUnread() {
	if !l.cfg.resets || l.stalled {
		return
	}
	for _, c := range l.ends {
		if c.in.readDone && c.in.waiting() > 0 {
			l.cut()
		}
	}
}

func (h *half) wake() {
	h.readable.Broadcast()
	h.writable.Broadcast()
}

// LocalAddr returns this end's address, an [Addr].
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the peer's address, an [Addr].
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "mem", Source: c.local, Addr: c.remote, Err: err}
}

// SetDeadline is SetReadDeadline and SetWriteDeadline at once.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(t, true, true) }

// SetReadDeadline holds for reads that wait, too. The zero time is no deadline.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, true, false) }

// SetWriteDeadline holds for writes that wait, too. The zero time is no deadline.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, false, true) }

func (c *Conn) setDeadlines(t time.Time, read, write bool) error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.in.readDone {
		return c.opError("set", net.ErrClosed)
	}
	if read {
		c.in.readDeadline.set(t)
	}
	if write {
		c.out.writeDeadline.set(t)
	}
	return nil
}

// A deadline wakes its cond, whose lock is the link's mu, when its time has come. That mu guards it.
type deadline struct {
	cond  *sync.Cond
	at    time.Time // zero: none
	timer *time.Timer
}

func (d *deadline) passed() bool {
	return !d.at.IsZero() && !time.Now().Before(d.at)
}

func (d *deadline) set(t time.Time) {
	d.at = t
	if t.IsZero() || d.passed() {
		d.stop()
	} else if wait := time.Until(t); d.timer == nil {
		d.timer = time.AfterFunc(wait, d.fire)
	} else {
		d.timer.Reset(wait)
	}
	d.cond.Broadcast()
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (d *deadline) fire() {
	d.cond.L.Lock()
	defer d.cond.L.Unlock()
	if !d.at.IsZero() && !d.passed() { // set again meanwhile, or a wall clock that runs behind
		d.timer.Reset(time.Until(d.at))
		return
	}
	d.cond.Broadcast()
}
