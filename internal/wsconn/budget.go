package wsconn

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"sync/atomic"
)

const (
	// frameBytes is what a frame takes beside its bytes: the Frame (88) and the allocator's rounding.
	frameBytes = 96

	// placeBytes is what an item takes of a queue: its node (40), and room to grow.
	placeBytes = 64

	// keyBytes is what a frame takes of a queue's keys.
	keyBytes = 64
)

// ErrBudget is an ErrFull: not the connection's queue is at its bound, but the budget. Of a
// batch with several frames, some may have gone out.
var ErrBudget = fmt.Errorf("%w: too much waits for all connections", ErrFull)

// A Budget bounds what waits for all connections that share it, in bytes. It counts each
// frame once, however many connections it waits for, with all that the frame takes: from when
// it waits for the first (queued, begun or being written) until the last has written it or
// let it go. Each place in a queue counts 64 bytes, with a key 128, and a gap's 192, for each
// connection. Control frames, one of each at most, don't count.
//
// # What it promises
//
//   - Up to 3/4 of it nobody notices it.
//   - Above, a connection's own bound is at most its share: the last quarter, divided by how
//     many connections something waits for. Who has more is at its bound, and its policy
//     decides; [Budget.Relieve] does so for those that nothing comes for. Who has less goes
//     on as before: the stalled don't hurt the healthy.
//   - When it is spent, nothing that came by Send is queued: Disconnect fails with ErrBudget;
//     the other policies drop what they may, the newest too, and queue the gap.
//   - What a socket takes at once is not touched by any of it.
//
// What no policy drops counts, and is bounded otherwise: above 3/4 SendWait waits until at
// most half of the share is queued, and when the budget is spent until nothing is; SendNow's
// callers see to it themselves. So more than the budget is what SendNow was given, one batch of
// SendWait and one gap a stream for each connection, and one batch for each goroutine that is
// in Send right then.
//
// The methods of a nil Budget work as if it had no end.
type Budget struct {
	max     int64
	used    atomic.Int64
	waiting atomic.Int64 // connections that something waits for
	pressed chan struct{}
}

// NewBudget returns a budget of max bytes.
func NewBudget(max int) *Budget {
	return &Budget{max: int64(max), pressed: make(chan struct{}, 1)}
}

// Used returns how many bytes wait.
func (b *Budget) Used() int {
	if b == nil {
		return 0
	}
	return int(b.used.Load())
}

// Spent tells whether the bound is reached.
func (b *Budget) Spent() bool { return b != nil && b.used.Load() >= b.max }

// Pressed has a value after more than 3/4 have come to wait: it is time for Relieve.
func (b *Budget) Pressed() <-chan struct{} {
	if b == nil {
		return nil
	}
	return b.pressed
}

func (b *Budget) high() int64 { return b.max - b.max/4 }

// share is what one connection may queue.
func (b *Budget) share() int {
	if b == nil {
		return math.MaxInt
	}
	switch used := b.used.Load(); {
	case used <= b.high():
		return math.MaxInt
	case used >= b.max:
		return 0
	}
	return int(b.max / 4 / max(b.waiting.Load(), 1))
}

func (b *Budget) add(n int) {
	now := b.used.Add(int64(n))
	if high := b.high(); now > high && now-int64(n) <= high {
		select {
		case b.pressed <- struct{}{}:
		default:
		}
	}
}

// Relieve makes half of the budget free, where more than 3/4 is used, at the expense of
// those of conns that hold most of it, each with more than its share: it drops what their
// policies let go, and sheds those whose policy is Disconnect. Where that is not enough it
// sheds those that hold most by other ways too. It returns how many it closed. Frames
// that others hold as well go with the last of them: the next call may find more to do.
func (b *Budget) Relieve(conns iter.Seq[*Conn], code int, reason string) (closed int) {
	share := b.share()
	if share == math.MaxInt {
		return 0
	}
	type holder struct {
		c     *Conn
		bytes int
	}
	var holders []holder
	for c := range conns {
		if n := c.holds(); n > share {
			holders = append(holders, holder{c, n})
		}
	}
	slices.SortFunc(holders, func(a, b holder) int { return cmp.Compare(b.bytes, a.bytes) })
	excess := b.Used() - int(b.max/2)
	shed := func(h *holder) {
		if h.c.Shed(code, reason) {
			closed++
		}
		excess -= h.bytes
		h.bytes = 0
	}
	for i := range holders {
		if excess <= 0 {
			return closed
		}
		h := &holders[i]
		queued, left := h.c.dropAll()
		excess -= h.bytes - left
		if h.bytes = left; queued > share {
			shed(h)
		}
	}
	for i := range holders {
		if h := &holders[i]; excess > 0 && h.bytes > share {
			shed(h)
		}
	}
	return closed
}

// size is what a budget counts for a frame.
func (f *Frame) size() int { return frameBytes + len(f.Bytes) + len(f.Key) }

// place is what a budget counts for an item of one connection.
func (it *item) place() int {
	switch {
	case it.gap != nil:
		return placeBytes + gapBytes
	case it.replaceable():
		return placeBytes + keyBytes
	}
	return placeBytes
}

// A tally is what one connection takes of a budget: the items in its queue, begun, and being
// written. The connection's mu guards it.
type tally struct {
	budget *Budget // nil: nothing is counted
	items  int
}

func (t *tally) hold(it item) {
	if t.budget == nil {
		return
	}
	if t.items++; t.items == 1 {
		t.budget.waiting.Add(1)
	}
	n := it.place()
	if it.frame != nil && it.frame.holders.Add(1) == 1 {
		n += it.frame.size()
	}
	t.budget.add(n)
}

func (t *tally) letGo(it item) {
	if t.budget == nil {
		return
	}
	if t.items--; t.items == 0 {
		t.budget.waiting.Add(-1)
	}
	n := it.place()
	if it.frame != nil && it.frame.holders.Add(-1) == 0 {
		n += it.frame.size()
	}
	t.budget.add(-n)
}

// holds is what the connection takes of its budget, with its part of the frames that wait for
// others too.
func (c *Conn) holds() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heldBytes()
}

// heldBytes is holds with mu held.
func (c *Conn) heldBytes() (n int) {
	for it := range c.held {
		n += it.place()
		if it.frame != nil {
			n += it.frame.size() / int(max(it.frame.holders.Load(), 1))
		}
	}
	return n
}

// held yields what counts in the budget. mu is held.
func (c *Conn) held(yield func(item) bool) {
	for _, it := range c.flying {
		if !yield(it) {
			return
		}
	}
	if c.begun.frame != nil && !yield(c.begun) {
		return
	}
	c.queue.each(yield)
}

// dropAll drops all that policies let go. Of Send it leaves so many bytes queued, and in all
// the connection holds so many.
func (c *Conn) dropAll() (queued, held int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range slices.Clone(c.queue.streams) {
		for c.queue.dropOldest(s.name) {
		}
	}
	c.tellLowWater()
	return c.queue.sent().bytes - c.queue.gaps*gapBytes, c.heldBytes()
}

// Shed is Close without what waits, but for a frame that was begun, and says whether it began
// the end. On a connection that is closing it lets go what still waits.
func (c *Conn) Shed(code int, reason string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue.clear()
	if c.end != nil {
		return false
	}
	c.close(&CloseError{Code: code, Reason: cutReason(reason)}, closeFrame(code, reason))
	return true
}

// full tells which bound is below so much of Send, if one is. mu is held.
func (c *Conn) full(l load) error {
	switch {
	case l.frames > c.maxFrames || l.bytes > c.maxBytes:
		return ErrFull
	case l.bytes+l.frames*placeBytes > c.queue.tally.budget.share():
		return ErrBudget
	}
	return nil
}

// spent tells whether the budget is. mu is held.
func (c *Conn) spent() bool { return c.queue.tally.budget.Spent() }
