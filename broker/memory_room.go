package broker

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// epochLen is the length of the memory broker's epochs: 60 random bits in base32.
const epochLen = 12

// messageOverhead is what a kept message costs beside its bytes: the Message (176),
// its entry (32), and room for the allocator.
const messageOverhead = 256

// A room is one room's history, subscriptions and presence.
type room struct {
	m    *Memory
	name string
	used atomic.Uint64 // Memory.clock when the room was used last

	places [2]place // guarded by Memory.mu

	mu    sync.Mutex // guards what follows; taken after Memory.mu, never held over a wait
	in    [2]bool    // which lrus the room is in; changed with Memory.mu held too
	state roomState
	epoch string
	own   *retention // nil: the broker's

	head  position
	edge  position // of the newest message that is not kept any more
	kept  deque[entry]
	bytes int // of kept

	subs    []*subscription
	full    int // how many of subs have reached the bound
	members map[holder]Member

	reserved, reservedBytes int // by Local.Admit

	// Who waits in Publish or Signal, in the order in which they came. Only the first may go on,
	// once no subscription is full; unlock tells it.
	firstWaiter, lastWaiter *waiter
}

type roomState uint8

const (
	roomLive   roomState = iota
	roomGone             // forgotten; a room of that name is another one
	roomClosed           // the broker is closed
)

// A position is that of a message. The seqs of a room begin with 1 and have no holes.
type position struct{ seq, tag uint64 }

type entry struct {
	msg  *Message
	size int
	at   time.Duration // by the broker's clock
}

type waiter struct {
	prev, next *waiter
	ready      chan struct{} // has a value when it is worth a look
}

func newRoom(m *Memory, name string) *room {
	return &room{m: m, name: name, epoch: rand.Text()[:epochLen]}
}

func (r *room) cursor(p position) Cursor {
	return Cursor{Epoch: r.epoch, Seq: p.seq, Tag: p.tag}
}

func (r *room) retention() retention {
	if r.own != nil {
		return *r.own
	}
	return r.m.o.retention
}

// inUse says whether the room must not be forgotten.
func (r *room) inUse() bool {
	return len(r.subs) > 0 || len(r.members) > 0 || r.firstWaiter != nil || r.reserved > 0
}

// unlock unlocks mu and tells the first of those who wait that it may go on, if so.
func (r *room) unlock() {
	if w := r.firstWaiter; w != nil && (r.full == 0 || r.state == roomClosed) {
		select {
		case w.ready <- struct{}{}:
		default:
		}
	}
	r.mu.Unlock()
}

// release is unlock for whoever may have ended the room's use, or begun its history: it
// puts the room into the lrus to which it belongs.
func (r *room) release() {
	listed := (r.in[idleRooms] || r.inUse()) && (r.in[fullRooms] || r.bytes == 0)
	r.unlock()
	if !listed {
		r.m.list(r)
	}
}

// admit waits, with mu unlocked meanwhile, until no subscription is full and whoever came
// earlier was served. On an error mu is unlocked. Whoever waited releases the room.
func (r *room) admit(ctx context.Context) (waited bool, err error) {
	if r.full == 0 && r.firstWaiter == nil {
		return false, nil
	}
	w := &waiter{prev: r.lastWaiter, ready: make(chan struct{}, 1)}
	if r.lastWaiter != nil {
		r.lastWaiter.next = w
	} else {
		r.firstWaiter = w
	}
	r.lastWaiter = w
	for err == nil && r.state == roomLive && (r.full > 0 || r.firstWaiter != w) {
		r.unlock()
		select {
		case <-w.ready:
		case <-ctx.Done():
			err = fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
		}
		r.mu.Lock()
	}
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		r.firstWaiter = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		r.lastWaiter = w.prev
	}
	if r.state == roomClosed {
		err = ErrClosed
	}
	if err != nil {
		r.release()
	}
	return true, err
}

// keep adds msg, which is at r.head, to the history, and makes room for it.
func (r *room) keep(e entry) {
	ret := r.retention()
	if ret.messages == 0 {
		r.edge = r.head
		return
	}
	r.expire(e.at)
	for r.kept.n > 0 && (r.kept.n >= ret.messages || r.bytes+e.size > r.m.o.roomBytes) {
		r.drop()
	}
	r.kept.push(e)
	r.bytes += e.size
	r.m.bytes.Add(int64(e.size))
}

// drop lets the oldest message go.
func (r *room) drop() {
	e := r.kept.pop()
	r.edge = position{e.msg.Cursor.Seq, e.msg.Cursor.Tag}
	r.bytes -= e.size
	r.m.bytes.Add(int64(-e.size))
}

// expire lets the messages go that are too old, or too many after a change of retention.
func (r *room) expire(now time.Duration) {
	ret := r.retention()
	for r.kept.n > 0 && (r.kept.n > ret.messages || ret.age > 0 && now-r.kept.at(0).at >= ret.age) {
		r.drop()
	}
}

// tag returns the tag of the message with that seq, which is from edge.seq to head.seq.
func (r *room) tag(seq uint64) uint64 {
	if seq == r.edge.seq {
		return r.edge.tag
	}
	return r.kept.at(int(seq - r.edge.seq - 1)).msg.Cursor.Tag
}

// since is Memory.Since with the room locked.
func (r *room) since(after Cursor, limit int) Page {
	head := r.cursor(r.head)
	if after == (Cursor{}) {
		after.Epoch = r.epoch
	}
	p := Page{Verdict: Recovered, Next: after, Head: head}
	first := 0 // of the messages, as an index into kept
	switch {
	case after.Epoch != r.epoch || after.Seq > r.head.seq || after.Seq == 0 && after.Tag != 0:
		p.Verdict = Reset
	case after.Seq < r.edge.seq:
		p.Verdict = Gap
		p.Gap = GapBounds{After: after.Seq, Before: r.edge.seq + 1, Missed: int(r.edge.seq - after.Seq)}
	case after.Tag != 0 && after.Tag != r.tag(after.Seq):
		p.Verdict = Reset
	default:
		first = int(after.Seq - r.edge.seq)
	}
	if p.Verdict != Recovered {
		p.Next = head
	}
	if p.Verdict != Reset {
		r.fill(&p, first, min(first+limit, r.kept.n))
		p.More = first+len(p.Messages) < r.kept.n
	}
	return p
}

// before is Memory.Before with the room locked.
func (r *room) before(before uint64, limit int) Page {
	head := r.cursor(r.head)
	end := r.kept.n
	if before > 0 && before <= r.head.seq {
		end = 0
		if before > r.edge.seq {
			end = int(before - r.edge.seq - 1)
		}
	}
	first := max(0, end-limit)
	p := Page{Next: head, Head: head, More: first > 0}
	r.fill(&p, first, end)
	return p
}

// fill gives p the messages from index first to before end.
func (r *room) fill(p *Page, first, end int) {
	if first >= end {
		return
	}
	p.Messages = make([]*Message, 0, end-first)
	for i := first; i < end; i++ {
		p.Messages = append(p.Messages, r.kept.at(i).msg)
	}
	p.Next = p.Messages[len(p.Messages)-1].Cursor
}
