package room

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/fanout"
	"github.com/chathub-go/hub/internal/wire"
	"github.com/chathub-go/hub/internal/wsconn"
)

type frame = wsconn.Frame

// ErrFull means that the room has as many members as it may.
var ErrFull = errors.New("hub: room is full")

// CodeSlow is the close code for a client that can't keep up (RFC 6455 registry: try
// again later).
const CodeSlow = 1013

// TooSlow is the reason that goes with CodeSlow.
const TooSlow = "too slow"

// A Member is one client in one room.
type Member struct {
	Who  broker.Member
	Door int
	Conn *wsconn.Conn
	Slow wsconn.Policy
	// Messages and Bytes bound what is owed to the member at one time: of a page of
	// history, or of the tail when it goes live.
	Messages, Bytes int
	// Lag counts closed slow clients.
	Lag *atomic.Uint64
	// Owner is for whoever made the member; the loop does not look at it.
	Owner any

	place *fanout.Member

	// room loop only
	live bool
}

// Receive implements fanout.Receiver.
func (m *Member) Receive(b *fanout.Batches, must bool) {
	batch := b[m.Door]
	if batch == nil {
		return
	}
	if must {
		_ = m.Conn.SendNow(batch) // fails only for who has gone
		return
	}
	switch err := m.Conn.Send(batch, m.Slow); {
	case errors.Is(err, wsconn.ErrBudget):
		m.Lag.Add(1)
		m.Conn.Shed(CodeSlow, TooSlow) // what waits for it is too much for the hub
	case errors.Is(err, wsconn.ErrFull):
		m.Lag.Add(1)
		m.Conn.Close(CodeSlow, TooSlow)
	}
}

// A Joining is what a client brings to a room.
type Joining struct {
	Member *Member
	Key    uint32 // chooses the worker: the same for all members of a client
	// Welcome makes the first frame, for members and at the position where the
	// client's stream begins. It runs on the loop. It may return nil.
	Welcome func(start broker.Cursor, members []broker.Member, count int) *wsconn.Frame
	// Start and At are where the client's stream begins and where First leaves it.
	// With Fresh both are the loop's position: the client wants nothing kept.
	Fresh     bool
	Start, At broker.Cursor
	First     []*wsconn.Frame // after the welcome
}

type request struct {
	join  *Joining // nil: go live
	m     *Member
	at    broker.Cursor
	reply chan reply // has room for one
}

type reply struct {
	live bool
	part []*wsconn.Frame // not live: what the loop has after the position, as much as fits
	next broker.Cursor   // after part
	err  error
}

type leaving struct {
	m      *Member
	reason string
	linger bool
	last   *wsconn.Frame
	done   chan struct{}
}

// Reserve takes a place for a member to be, which Join then fills, and Free gives
// back.
func (l *Loop) Reserve() error {
	if l.places.Add(1) > int64(l.cfg.MaxMembers) {
		l.places.Add(-1)
		return ErrFull
	}
	select {
	case <-l.done:
		return ErrStopped
	default:
		return nil
	}
}

// Free gives back a reserved place that no Join filled.
func (l *Loop) Free() { l.places.Add(-1) }

// few is how many clients of a room have one worker: for so few writes, waking another
// one costs more than it saves.
const few = 32

// Key returns a key for a client whose place is reserved: for the first few the same, so
// that small rooms are one worker's work, and then any.
func (l *Loop) Key() uint32 {
	if l.places.Load() <= few {
		return l.key
	}
	return rand.Uint32()
}

// Join makes a client a member, and live if it has caught up: then it gets every
// message after j.At. Where it is not live, the caller sends what follows j.At, and
// calls Live. Presence reaches it from now on.
func (l *Loop) Join(ctx context.Context, j *Joining) (live bool, err error) {
	j.Member.place = fanout.NewMember(j.Member, j.Key)
	a := l.ask(ctx, request{join: j, m: j.Member, at: j.At})
	return a.live, a.err
}

// live asks for the step to live at a position. Where the loop is too far ahead the answer
// is not live: the caller sends the part that came with it, or reads on where there is
// none, and asks again. It waits where the loop is behind.
func (l *Loop) live(ctx context.Context, m *Member, at broker.Cursor) reply {
	return l.ask(ctx, request{m: m, at: at})
}

func (l *Loop) ask(ctx context.Context, r request) reply {
	r.reply = make(chan reply, 1)
	select {
	case l.inbox <- func() { l.answer(r) }:
	case <-l.done:
		return reply{err: ErrStopped}
	case <-ctx.Done():
		return reply{err: ctx.Err()}
	}
	if r.join != nil {
		// The loop has taken it and it is answered, by a worker, also where the loop
		// ends right then: whether the client is a member must be known.
		return <-r.reply
	}
	select {
	case a := <-r.reply:
		return a
	case <-l.done:
		return reply{err: ErrStopped}
	case <-ctx.Done():
		return reply{err: ctx.Err()}
	}
}

// Leave takes a member out. With linger the others are told only when it has not come
// back within the resume window. Last goes out after all that it got; it may be nil.
func (l *Loop) Leave(m *Member, reason string, linger bool, last *wsconn.Frame) {
	r := leaving{m: m, reason: reason, linger: linger, last: last, done: make(chan struct{})}
	select {
	case l.inbox <- func() { l.leave(r) }:
		<-r.done
	case <-l.done:
	}
}

// answer must only be called from the room loop.
func (l *Loop) answer(r request) {
	if r.join != nil {
		if l.closing {
			r.reply <- reply{err: ErrClosing}
			return
		}
		if r.join.Fresh {
			r.at = l.pos
			r.join.Start = l.pos
		}
		l.join(r.join)
	} else if _, in := l.members[r.m]; !in {
		r.reply <- reply{err: ErrStopped}
		return
	}
	l.tryLive(r, r.join != nil)
}

// tryLive makes a member live where it has caught up. Where the loop is behind it, the
// request waits, unless an answer is wanted now. Room loop only.
func (l *Loop) tryLive(r request, now bool) {
	if r.at.Epoch == l.pos.Epoch && r.at.Seq > l.pos.Seq {
		if now {
			l.reply(r, reply{})
		} else {
			l.waiting = append(l.waiting, r)
		}
		return
	}
	frames, cursors, ok := l.after(r.m.Door, r.at)
	if !ok {
		l.reply(r, reply{})
		return
	}
	if n, part := r.m.fit(frames); n < len(frames) {
		l.reply(r, reply{part: part, next: cursors[n-1]})
		return
	}
	l.goLive(r.m, forDoor(r.m.Door, frames...))
	l.reply(r, reply{live: true})
}

// reply answers once the member's worker has handed over what it got: what the caller
// sends next must not overtake the welcome. Room loop only.
func (l *Loop) reply(r request, a reply) {
	l.group.Then(r.m.place, func() { r.reply <- a })
}

// join must only be called from the room loop.
func (l *Loop) join(j *Joining) {
	m := j.Member
	m.live = false // where another loop, which ended, had it
	l.deep = true
	if l.members == nil {
		l.members, l.clients, l.users = map[*Member]struct{}{}, map[string]*Member{}, map[string][]*Member{}
	}
	l.members[m] = struct{}{}
	l.clients[m.Who.Client] = m
	l.users[m.Who.User] = append(l.users[m.Who.User], m)
	l.doors[m.Door]++
	l.catching++
	frames := make([]*wsconn.Frame, 0, 1+len(j.First))
	frames = append(frames, j.Welcome(j.Start, l.there.Some(wire.MaxWelcomeMembers), l.there.Len()))
	l.group.Add(m.place, forDoor(m.Door, append(frames, j.First...)...))
}

// after returns what the loop passed since at, each with its position, and whether it
// still has all of it. Room loop only.
func (l *Loop) after(door int, at broker.Cursor) (frames []*frame, cursors []broker.Cursor, ok bool) {
	if at.Epoch != l.pos.Epoch {
		return nil, nil, false
	}
	if at.Seq == l.pos.Seq {
		return nil, nil, true
	}
	if len(l.tail) == 0 || at.Seq < l.tail[0].m.Prev {
		return nil, nil, false
	}
	for i := range l.tail {
		t := &l.tail[i]
		if t.m.Cursor.Seq <= at.Seq {
			continue
		}
		if t.frames[door] == nil {
			t.frames[door] = l.Stream().Message(door, t.m)
		}
		frames = append(frames, t.frames[door]) // nil where the door shows nothing
		cursors = append(cursors, t.m.Cursor)
	}
	return frames, cursors, true
}

// fit returns how many of frames may be given to the member at one time, at least 1, and
// a batch of them without those that are nil.
func (m *Member) fit(frames []*wsconn.Frame) (n int, some []*wsconn.Frame) {
	size := 0
	for i, f := range frames {
		if f == nil {
			continue
		}
		if size += len(f.Bytes); len(some) > 0 && (len(some) >= m.Messages || size > m.Bytes) {
			return i, some
		}
		some = append(some, f)
	}
	return len(frames), some
}

// goLive must only be called from the room loop.
func (l *Loop) goLive(m *Member, first *fanout.Batches) {
	l.flush() // what was gathered came before
	l.group.Live(m.place, first)
	m.live = true
	l.caughtUp()
	l.announce(m)
}

// caughtUp must only be called from the room loop.
func (l *Loop) caughtUp() {
	if l.catching--; l.catching == 0 {
		l.tail, l.tailSize = nil, 0
	}
}

// keep adds to the tail. Room loop only.
func (l *Loop) keep(t tailed) {
	l.tail = append(l.tail, t)
	l.tailSize += len(t.m.Data)
	drop := 0
	for drop < len(l.tail)-1 && (len(l.tail)-drop > maxTail || l.tailSize > maxTailBytes) {
		l.tailSize -= len(l.tail[drop].m.Data)
		drop++
	}
	if drop > 0 {
		n := copy(l.tail, l.tail[drop:])
		clear(l.tail[n:])
		l.tail = l.tail[:n]
	}
}

// wake answers those who waited for the loop to reach their position. Room loop only.
func (l *Loop) wake() {
	if len(l.waiting) == 0 {
		return
	}
	waiting := l.waiting
	l.waiting = nil
	for _, r := range waiting {
		if _, in := l.members[r.m]; !in {
			continue
		}
		l.tryLive(r, false)
	}
}

// leave must only be called from the room loop.
func (l *Loop) leave(r leaving) {
	defer close(r.done)
	m := r.m
	if _, in := l.members[m]; !in {
		return
	}
	delete(l.members, m)
	delete(l.clients, m.Who.Client)
	l.users[m.Who.User] = without(l.users[m.Who.User], m)
	if len(l.users[m.Who.User]) == 0 {
		delete(l.users, m.Who.User)
	}
	l.doors[m.Door]--
	l.places.Add(-1)
	l.flush()
	l.group.Remove(m.place, forDoor(m.Door, r.last))
	if !m.live {
		l.caughtUp()
	}
	for i := range l.waiting {
		if l.waiting[i].m == m {
			l.waiting = append(l.waiting[:i:i], l.waiting[i+1:]...)
			break
		}
	}
	if m.live { // it was announced
		l.goodbye(m, r.reason, r.linger, time.Now())
	}
	if len(l.members) == 0 {
		l.out = batches{}
		l.members, l.clients, l.users = nil, nil, nil // an empty room holds no maps
		l.schedule()
	}
}

func without(members []*Member, m *Member) []*Member {
	for i := range members {
		if members[i] == m {
			members[i] = members[len(members)-1]
			members[len(members)-1] = nil
			return members[:len(members)-1]
		}
	}
	return members
}
