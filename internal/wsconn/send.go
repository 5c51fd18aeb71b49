package wsconn

import "slices"

// Send writes b at once, as far as that is possible without waiting, and queues the rest.
// It never blocks. Batches go out in the order of the calls. At the queue's bound, a
// policy decides: Disconnect fails with ErrFull, and nothing of b is taken. DropOldest
// drops the oldest waiting frames of b's streams, those of b at last, and puts one gap
// where they stood; it fails with ErrFull only where that does not help: for frames
// without a stream. The bound counts what came by Send: a page of history that waits
// makes no connection slow. A queue in which nothing of Send waits takes any batch
// (Disconnect) or any frame (DropOldest). Once the connection is closing, Send fails
// with ErrClosed. A [Budget] that is nearly spent makes the bound smaller; then Disconnect
// fails with ErrBudget.
//
// LatestPerKey is DropOldest that begins before the bound: a frame with a key drops the
// one of its stream and key that waits, and a gap tells of it as of any. The newest stands
// where it came, at the end. What was begun, what was sent by another policy or way, and
// frames without a key are not replaced.
func (c *Conn) Send(b *Batch, p Policy) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.end != nil:
		return ErrClosed
	case len(b.Bytes) == 0:
		return nil
	case c.free():
		return c.trySend(b, p, false)
	case p != Disconnect:
		return c.queueDropping(b, p)
	}
	waits := c.queue.sent().plus(c.inFlight.minus(c.inFlightKept))
	if waits.frames > 0 {
		if err := c.full(waits.plus(load{len(b.Frames), len(b.Bytes)})); err != nil {
			return err
		}
	} else if c.spent() {
		return ErrBudget
	}
	c.push(b, p, false)
	c.kick()
	return nil
}

// SendNow is SendWait without the wait, whatever is queued: for few and small frames, as
// no bound counts them.
func (c *Conn) SendNow(b *Batch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sendKept(b)
}

// sendKept writes or queues frames that no policy may drop. mu is held.
func (c *Conn) sendKept(b *Batch) error {
	switch {
	case c.end != nil:
		return ErrClosed
	case len(b.Bytes) == 0:
		return nil
	case c.free():
		return c.trySend(b, Disconnect, true)
	}
	c.push(b, Disconnect, true)
	c.kick()
	return nil
}

// trySend writes what fits of b at once. What does not is queued beyond the bound:
// Disconnect can't give back what was taken. mu is held, and released meanwhile.
func (c *Conn) trySend(b *Batch, p Policy, keep bool) error {
	n := c.tryWrite(b.Bytes)
	defer c.handOver()
	if c.isFlushed {
		return ErrClosed
	}
	if n == len(b.Bytes) {
		return nil
	}
	i := 0
	for ; n >= len(b.Frames[i].Bytes); i++ {
		n -= len(b.Frames[i].Bytes)
	}
	rest := b.Frames[i:]
	if n > 0 {
		c.keepRest(rest[0].Bytes[n:], item{frame: rest[0], keep: keep, slow: p})
		rest = rest[1:]
	}
	if p == Disconnect && !keep && len(rest) > 0 && c.spent() {
		return ErrBudget
	}
	for _, f := range slices.Backward(rest) { // before what came meanwhile
		c.queue.pushFront(item{frame: f, keep: keep, slow: p})
	}
	if p != Disconnect {
		c.trim(b)
	}
	return nil
}

func (c *Conn) push(b *Batch, p Policy, keep bool) {
	for _, f := range b.Frames {
		c.queue.push(item{frame: f, keep: keep, slow: p})
	}
}

// queueDropping queues b and keeps the bound. What is in flight does not count here: it
// can't be dropped any more, and would leave no room for what is newer. mu is held.
func (c *Conn) queueDropping(b *Batch, p Policy) error {
	if c.queue.gaps >= c.maxFrames {
		return ErrFull // streams without end, each with a gap
	}
	more := load{len(b.Frames), len(b.Bytes)}
	if p == LatestPerKey {
		more = more.minus(c.replace(b))
	}
	for _, f := range b.Frames {
		for f.Stream != nil && c.over(more) && c.queue.dropOldest(f.Stream) {
		}
	}
	if err := c.full(c.queue.sent().plus(more)); err != nil && (c.queue.sent().frames > 0 || c.spent()) &&
		slices.ContainsFunc(b.Frames, func(f *Frame) bool { return f.Stream == nil }) {
		return err
	}
	c.push(b, p, false)
	c.trim(b)
	c.kick()
	return nil
}

// replace drops what b's frames replace, before the bound is looked at. Frames without a
// stream are left to push, as ErrFull must not cost them anything: replace returns what
// will go with them. mu is held.
func (c *Conn) replace(b *Batch) (later load) {
	for _, f := range b.Frames {
		switch {
		case f.Key == "":
		case f.Stream != nil:
			c.queue.replace(f)
		default:
			if old := c.queue.waiting(f); old != nil {
				later = later.plus(load{1, len(old.Bytes)})
			}
		}
	}
	return later
}

// trim drops frames of b's streams until the queue is within its bound, or only one
// frame of Send waits, none where the budget is spent. mu is held.
func (c *Conn) trim(b *Batch) {
	for _, f := range b.Frames {
		for f.Stream != nil && c.over(load{}) && (c.queue.sent().frames-c.queue.gaps > 1 || c.spent()) && c.queue.dropOldest(f.Stream) {
		}
	}
}

// over tells whether so much more is more than the queue may hold of Send. mu is held.
func (c *Conn) over(more load) bool { return c.above(c.queue.sent().plus(more)) }

func (c *Conn) above(l load) bool { return c.full(l) != nil }

// low tells whether at most half of each bound is queued, whoever sent it. mu is held.
func (c *Conn) low() bool {
	waits := c.queue.all().plus(c.inFlight)
	return !c.above(waits.plus(waits))
}

// tellLowWater releases who waits for low. mu is held.
func (c *Conn) tellLowWater() {
	if c.lowWater != nil && c.low() {
		close(c.lowWater)
		c.lowWater = nil
	}
}

// Ping sends a ping, or leaves it to go before what waits. It never blocks, and does
// nothing while one waits.
func (c *Conn) Ping() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil || c.ping {
		return
	}
	if !c.free() {
		c.ping = true
		c.kick()
		return
	}
	n := c.tryWrite(pingFrame)
	if n == 0 && !c.isFlushed {
		c.ping = true
	} else {
		c.keepRest(pingFrame[n:], control)
	}
	c.handOver()
}

// sendPong sends a pong frame, which is the caller's, or leaves it to go before what
// waits, in place of one that waits. Reading goroutine only.
func (c *Conn) sendPong(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isFlushed || c.closeBegun {
		return
	}
	if !c.free() {
		c.pong = slices.Clone(frame)
		c.kick()
		return
	}
	n := c.tryWrite(frame)
	if n == 0 && !c.isFlushed {
		c.pong = slices.Clone(frame)
	} else {
		c.keepRest(slices.Clone(frame[n:]), control)
	}
	c.handOver()
}

// writeClose writes the close frame, or leaves it to the writer. mu is held, and
// released meanwhile.
func (c *Conn) writeClose() {
	if !c.free() {
		c.kick()
		return
	}
	frame := c.closeFrame
	n := c.tryWrite(frame)
	if n > 0 && !c.isFlushed {
		c.closeFrame, c.closeBegun = nil, true
		c.keepRest(frame[n:], control)
		if n == len(frame) {
			c.closeWritten()
		}
	}
	c.handOver()
}
