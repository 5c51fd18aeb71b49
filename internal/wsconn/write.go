package wsconn

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// maxWrite bounds one system call, so that each gets a deadline of its own.
	maxWrite = 64 << 10

	// maxCopy bounds what is copied together where there is no writev: a TLS record.
	maxCopy = 16 << 10

	// maxVec bounds the frames of one write, as the kernel bounds a writev (IOV_MAX).
	maxVec = 1024
)

// A writerState is what a writer needs while it runs.
type writerState struct {
	bufs     [][]byte // in flight; a gap's is nil until its frame is made
	gaps     []placedGap
	held     []item      // what bufs are of
	data     load        // of bufs; control frames count in no bound
	kept     load        // of data, what no policy may drop
	chunk    [][]byte    // what goes out with one system call
	vec      net.Buffers // chunk, again: WriteTo needs it on the heap
	copied   []byte
	deadline bool // the socket has a write deadline
}

type placedGap struct {
	at int // in bufs
	*gap
}

var writerStates = sync.Pool{New: func() any { return new(writerState) }}

// add adds data of an item, whose frame may be begun already; control frames go to bufs
// directly.
func (w *writerState) add(p []byte, it item) {
	w.bufs = append(w.bufs, p)
	w.held = append(w.held, it)
	l := load{1, len(p)}
	w.data = w.data.plus(l)
	if it.keep {
		w.kept = w.kept.plus(l)
	}
}

// landed ends what was in flight. mu is held.
func (c *Conn) landed(w *writerState) {
	for _, it := range w.held {
		if it.frame != nil || it.gap != nil {
			c.queue.tally.letGo(it)
		}
	}
	clear(w.bufs)
	clear(w.gaps)
	clear(w.held)
	w.bufs, w.gaps, w.held, w.data, w.kept = w.bufs[:0], w.gaps[:0], w.held[:0], load{}, load{}
	c.inFlight, c.inFlightKept, c.flying = load{}, load{}, nil
}

// write is the writer: it owns the socket until nothing waits.
func (c *Conn) write() {
	w := writerStates.Get().(*writerState)
	defer func() {
		c.mu.Lock()
		c.landed(w)
		c.mu.Unlock()
		w.deadline = false
		writerStates.Put(w)
	}()
	for c.take(w) {
		if err := c.flush(w); err != nil {
			c.fail(err)
			return
		}
	}
}

// take takes what is to go out next. Where there is nothing, it gives up the ownership.
func (c *Conn) take(w *writerState) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.landed(w)
	if c.closeBegun && c.partial == nil {
		c.closeWritten()
		return false
	}
	if w.deadline && !c.waiting() {
		w.deadline = false
		c.mu.Unlock()
		c.conn.SetWriteDeadline(time.Time{})
		c.mu.Lock()
	}
	if !c.waiting() {
		c.owned = false
		c.tellLowWater()
		return false
	}
	if c.partial != nil {
		w.add(c.partial, c.begun)
		c.partial, c.begun = nil, item{}
	}
	if c.closeBegun { // of which partial is the rest
		c.pong, c.ping = nil, false
	}
	if c.pong != nil {
		w.bufs = append(w.bufs, c.pong)
		c.pong = nil
	}
	if c.ping {
		w.bufs = append(w.bufs, pingFrame)
		c.ping = false
	}
	for c.queue.n > 0 && w.data.bytes < maxWrite && len(w.bufs) < maxVec {
		it := c.queue.pop()
		if it.gap != nil {
			w.gaps = append(w.gaps, placedGap{len(w.bufs), it.gap})
			w.add(nil, it)
		} else {
			w.add(it.frame.Bytes, it)
		}
	}
	if c.queue.n == 0 && c.closeFrame != nil {
		w.bufs = append(w.bufs, c.closeFrame)
		c.closeFrame, c.closeBegun = nil, true
	}
	c.inFlight, c.inFlightKept, c.flying = w.data, w.kept, w.held
	c.tellLowWater()
	return true
}

// closeWritten follows the close frame. mu is held, and released meanwhile.
func (c *Conn) closeWritten() {
	if c.isFlushed {
		return
	}
	c.mu.Unlock()
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	c.mu.Lock()
	c.setFlushed()
}

// flush writes what was taken. As long as bytes move, it goes on.
func (c *Conn) flush(w *writerState) error {
	for _, g := range w.gaps {
		if f := c.gapFrame(g.stream, g.after, g.last+1, g.missed); f != nil {
			w.bufs[g.at] = f.Bytes
		}
	}
	for rest := advance(w.bufs, 0); len(rest) > 0; {
		w.deadline = true
		if err := c.conn.SetWriteDeadline(c.writeBy()); err != nil {
			return err
		}
		n, err := c.writeSome(w, rest)
		rest = advance(rest, n)
		if err == nil || n > 0 && errors.Is(err, os.ErrDeadlineExceeded) && !c.overdue() {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || c.overdue() || c.try == nil {
			return err
		}
		// Linux wakes a writer when a third of the socket's buffer is free, and takes bytes
		// before that: a slow peer may have read some.
		if err := c.conn.SetWriteDeadline(c.writeBy()); err != nil {
			return err
		}
		n, tryErr := c.try.TryWrite(rest[0])
		if tryErr != nil {
			return tryErr
		}
		if n == 0 {
			return err
		}
		rest = advance(rest, n)
	}
	return nil
}

// writeBy is a write's deadline, and overdue tells that no other may follow it.
func (c *Conn) writeBy() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	by := time.Now().Add(c.writeTimeout)
	if c.end != nil && c.closeBy.Before(by) {
		return c.closeBy
	}
	return by
}

func (c *Conn) overdue() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end != nil && !time.Now().Before(c.closeBy)
}

// writeSome writes the beginning of rest with one system call.
func (c *Conn) writeSome(w *writerState, rest [][]byte) (int, error) {
	var writev bool
	limit := maxCopy
	switch c.conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		writev, limit = true, maxWrite
	}
	w.chunk = w.chunk[:0]
	for _, p := range rest {
		p = p[:min(len(p), limit)]
		w.chunk = append(w.chunk, p)
		if limit -= len(p); limit == 0 {
			break
		}
	}
	defer clear(w.chunk)
	if len(w.chunk) == 1 {
		return c.conn.Write(w.chunk[0])
	}
	if writev {
		w.vec = w.chunk
		n, err := w.vec.WriteTo(c.conn)
		return int(n), err
	}
	w.copied = slices.Grow(w.copied[:0], maxCopy)
	for _, p := range w.chunk {
		w.copied = append(w.copied, p...)
	}
	return c.conn.Write(w.copied)
}

// advance cuts n bytes, and empty slices, from the beginning of bufs.
func advance(bufs [][]byte, n int) [][]byte {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if n > 0 {
		bufs[0] = bufs[0][n:]
	}
	return bufs
}

// waiting tells whether there is something for a writer to do. mu is held.
func (c *Conn) waiting() bool {
	return c.partial != nil || c.pong != nil || c.ping || c.queue.n > 0 || c.closeFrame != nil
}

// kick starts a writer where one is needed. mu is held.
func (c *Conn) kick() {
	if c.owned || !c.waiting() {
		return
	}
	c.owned = true
	c.writer.Go(c.write)
}

// free tells whether the caller may write at once. mu is held.
func (c *Conn) free() bool { return c.try != nil && !c.owned && !c.isFlushed }

// tryWrite owns the socket and writes what fits of p at once. mu is held, and released
// meanwhile. handOver must follow.
func (c *Conn) tryWrite(p []byte) int {
	c.owned = true
	c.mu.Unlock()
	n, err := c.try.TryWrite(p)
	if err != nil {
		c.fail(err)
		n = len(p)
	}
	c.mu.Lock()
	return n
}

// handOver ends the caller's ownership: what is left is the writer's. mu is held.
func (c *Conn) handOver() {
	c.owned = false
	c.kick()
}

// keepRest keeps the rest of a frame that was begun: it's frame, or a control frame. mu is
// held.
func (c *Conn) keepRest(p []byte, it item) {
	if len(p) == 0 || c.isFlushed {
		return
	}
	c.partial, c.begun = p, it
	c.inFlight = load{1, len(p)}
	if it.keep {
		c.inFlightKept = c.inFlight
	}
	if it.frame != nil {
		c.queue.tally.hold(it)
	}
}

// control is the item of a control frame: no bound counts it.
var control = item{keep: true}

// dropBegun is for a connection that writes no more. mu is held.
func (c *Conn) dropBegun() {
	if c.begun.frame != nil {
		c.queue.tally.letGo(c.begun)
	}
	c.begun = item{}
}

// SendWait is Send for frames that no policy may drop and that Send's bound does not
// count. It waits while more than half of either bound is queued, by whichever way it
// came; ctx or the end of the connection (ErrClosed) ends the wait.
func (c *Conn) SendWait(ctx context.Context, b *Batch) error {
	for {
		c.mu.Lock()
		if c.end != nil || c.low() {
			defer c.mu.Unlock()
			return c.sendKept(b)
		}
		if c.lowWater == nil {
			c.lowWater = make(chan struct{})
		}
		low := c.lowWater
		c.mu.Unlock()
		select {
		case <-low:
		case <-c.closing:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
