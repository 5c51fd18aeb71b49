// Package room is the loop behind an open room.
//
// One goroutine, which [Loop.Start] starts, owns the membership and the room's position in its
// history. It takes requests to join and to leave, and the broker's events in order,
// and hands encoded batches to the fan-out. It never does I/O, never calls the
// service's code, and never waits for a client: whatever would is done by the
// goroutines that send it requests, or by short ones that it starts.
package room

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/fanout"
	"github.com/chathub-go/hub/internal/presence"
	"github.com/chathub-go/hub/internal/wire"
	"github.com/chathub-go/hub/internal/wsconn"
)

var (
	// ErrStopped means that this loop is over. Unless the room was closed, another
	// one can be opened.
	ErrStopped = errors.New("hub: room loop stopped")
	// ErrClosing means that the room lets nobody in any more.
	ErrClosing = errors.New("hub: room closed")
)

const (
	// maxBatch is how many events one turn takes, and so the messages of one batch.
	maxBatch = 64
	// maxTail bounds the messages kept at hand, while somebody catches up, for the step
	// to live, in number and in bytes.
	maxTail      = 64
	maxTailBytes = 1 << 20
)

// Config is what a loop needs. All fields are needed.
type Config struct {
	Name         string
	Broker       broker.Broker
	Lease        broker.Lease
	Farewells    *Farewells
	Pool         *fanout.Pool
	Text         wire.TextFormat
	Compress     int // from how many bytes on messages are deflated; 0: never
	Counts       *Counts
	MaxMembers   int
	ResumeWindow time.Duration
	Idle         time.Duration
	Logger       *slog.Logger
	// Go starts a goroutine that somebody waits for.
	Go func(func())
	// Stop ends the loop when it is closed; members are not told.
	Stop <-chan struct{}
	// Retire is called when the room has been empty for Idle. Where it returns true
	// nobody will find this loop any more, and it stops. It must not block.
	Retire func() bool
	// Failed is called, once and not on the loop, when the broker ended the
	// subscription.
	Failed func()
}

// A Loop is an open room. Its exported methods may be called concurrently.
type Loop struct {
	cfg     Config
	sub     broker.Subscription
	group   *fanout.Group
	inbox   chan func() // what the loop is to do, other than to take the broker's events
	done    chan struct{}
	places  atomic.Int64 // members and reservations
	current atomic.Pointer[Stream]
	key     uint32 // of the room's first few clients

	// room loop only
	closing   bool
	abandoned bool          // closing, and not to wait for announcements
	deep      bool          // members were there since this goroutine began
	pos       broker.Cursor // of the last message handed to the fan-out
	members   map[*Member]struct{}
	clients   map[string]*Member
	users     map[string][]*Member
	doors     [fanout.Doors]int // members of each door
	there     presence.Table    // as the broker tells it, over all processes
	events    []broker.Event    // the last batch
	rest      []broker.Event    // of events: not handled yet
	ended     error             // of the subscription, once rest is empty
	out       batches           // what this turn has for live members
	catching  int               // members that are not live yet
	tail      []tailed
	tailSize  int
	waiting   []request // to go live at a position that the loop has not reached
	drains    []drain
	presence  announcer
	cancel    context.CancelFunc // of the announcement under way, nil: none is
	under     chan struct{}      // closed when the last announcement that was begun has returned
	linger    lingerers
	reasons   map[string]departed // by client
	timer     *time.Timer
	over      func() // called when the loop is over
}

// tailed is a message that the loop has passed, kept for members about to go live.
type tailed struct {
	m      *broker.Message
	frames [fanout.Doors]*frame // made as needed
}

type drain struct {
	until broker.Cursor
	done  func()
}

// Open subscribes to the room. The caller calls Start.
func Open(ctx context.Context, cfg Config) (*Loop, error) {
	sub, err := cfg.Broker.Subscribe(ctx, cfg.Name)
	if err != nil {
		return nil, err
	}
	l := &Loop{
		cfg:   cfg,
		sub:   sub,
		group: cfg.Pool.NewGroup(),
		inbox: make(chan func()),
		done:  make(chan struct{}),
		pos:   sub.Head(),
		key:   rand.Uint32(),
	}
	l.current.Store(l.stream(l.pos.Epoch))
	for _, m := range sub.Members() {
		l.there.Join(m)
	}
	return l, nil
}

// Start starts the loop. It ends when the room was idle, after Stop, after Close once
// the last member has left, or when the broker ended the subscription; then it calls over,
// which must not wait for Done.
func (l *Loop) Start(over func()) {
	l.over = over
	l.timer = time.NewTimer(l.cfg.Idle)
	l.cfg.Go(l.run)
}

// run goes on in a goroutine of its own when the room has become empty. A stack grows for the
// work that members are, and one that waits in a select never shrinks again: so an open room at
// rest has a stack of 2 KiB, not 4.
func (l *Loop) run() {
	for !l.turn() {
		if l.deep && len(l.members) == 0 && l.linger.first() == nil && l.presence.idle() && len(l.rest) == 0 {
			l.deep = false
			l.cfg.Go(l.run)
			return
		}
	}
	l.timer.Stop()
	l.cancelAnnouncement()
	l.sub.Close()
	l.over() // first: who waits for the end may count the hub's rooms
	close(l.done)
}

// turn waits for one thing to do, and does it. Room loop only.
func (l *Loop) turn() (end bool) {
	ready, room := l.sub.Ready(), (<-chan struct{})(nil)
	if len(l.rest) > 0 {
		ready = always
	}
	if l.group.Full() { // take no more; still serve who comes and goes
		ready, room = nil, l.group.Ready()
	}
	// A select locks each of its channels, for each message: so these are few.
	select {
	case do := <-l.inbox:
		do()
	case <-ready:
		if err := l.take(); err != nil {
			l.cfg.Go(func() {
				l.cfg.Logger.Error("hub: the broker ended a room's subscription", "room", l.cfg.Name, "err", err)
				l.cfg.Failed()
			})
			l.farewell()
			return true
		}
	case <-room:
	case <-l.timer.C:
		if l.tick() {
			return true
		}
	case <-l.cfg.Stop:
		return true
	}
	if l.closing && len(l.members) == 0 && (l.abandoned || l.presence.idle()) {
		l.farewell()
		return true
	}
	return false
}

// always is ready.
var always = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Done is closed when the loop is over.
func (l *Loop) Done() <-chan struct{} { return l.done }

// Stream returns the encoder of the room's present history.
func (l *Loop) Stream() *Stream { return l.current.Load() }

// NewStream returns an encoder for another history of the room.
func (l *Loop) NewStream(epoch string) *Stream {
	if s := l.Stream(); s.Epoch == epoch {
		return s
	}
	return l.stream(epoch)
}

func (l *Loop) stream(epoch string) *Stream {
	return &Stream{Room: l.cfg.Name, Epoch: epoch, Text: l.cfg.Text, Compress: l.cfg.Compress, Counts: l.cfg.Counts}
}

// do runs f on the loop.
func (l *Loop) do(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	select {
	case l.inbox <- func() { f(); close(ran) }:
		<-ran // the loop runs what it took
		return nil
	case <-l.done:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Members returns who is in the room, over all processes: each user once.
func (l *Loop) Members(ctx context.Context, most int) (members []broker.Member, count int, err error) {
	err = l.do(ctx, func() { members, count = l.there.Some(most), l.there.Len() })
	return members, count, err
}

// ErrNotMember means that the member is in the room no more.
var ErrNotMember = errors.New("hub: not in the room")

// TellMembers gives m a frame that says who is in the room, behind what the room has told it of joins and leaves, and
// before what it will. It returns when that is on its way to m's connection. No bound counts the frame.
func (l *Loop) TellMembers(ctx context.Context, m *Member, most int, encode func(members []broker.Member, count int) *wsconn.Frame) error {
	told := make(chan error, 1)
	err := l.do(ctx, func() {
		if _, in := l.members[m]; !in {
			told <- ErrNotMember
			return
		}
		l.flush()
		b := wsconn.NewBatch(encode(l.there.Some(most), l.there.Len()))
		l.group.Then(m.place, func() {
			_ = m.Conn.SendNow(b) // fails only for who has gone
			told <- nil
		})
	})
	if err != nil {
		return err
	}
	return <-told // a worker never waits
}

// Close lets nobody in any more and calls closed for each member, on a goroutine of its
// own; it must see to it that the member leaves. The loop ends when the last one has left
// and that was announced.
func (l *Loop) Close(closed func(*Member)) {
	_ = l.do(context.Background(), func() { // the loop does not block; stopped is as good
		now := time.Now()
		l.closing = true
		for l.linger.first() != nil {
			g := l.linger.pop()
			l.depart(g.who, g.reason, now)
		}
		l.startAnnounce(now)
		l.each(closed)
	})
}

// Abandon calls cut for each member, as Close does, and lets the loop end without waiting
// for announcements.
func (l *Loop) Abandon(cut func(*Member)) {
	_ = l.do(context.Background(), func() {
		l.closing, l.abandoned = true, true
		l.each(cut)
	})
}

// each must only be called from the room loop.
func (l *Loop) each(f func(*Member)) {
	members := make([]*Member, 0, len(l.members))
	for m := range l.members {
		members = append(members, m)
	}
	l.cfg.Go(func() {
		for _, m := range members {
			f(m)
		}
	})
}

// Drain calls done, on a worker, once all messages up to until were handed to every
// member's connection.
func (l *Loop) Drain(ctx context.Context, until broker.Cursor, done func()) error {
	return l.do(ctx, func() {
		l.drains = append(l.drains, drain{until, done})
		l.reached()
	})
}

// take handles a batch of the broker's events, or as much of it as the fan-out takes now.
// Room loop only.
func (l *Loop) take() error {
	if len(l.rest) == 0 {
		l.events, l.ended = l.sub.Take(l.events[:0], maxBatch)
		l.rest = l.events
	}
	for len(l.rest) > 0 && !l.group.Full() {
		l.event(&l.rest[0])
		l.rest = l.rest[1:]
	}
	l.flush()
	l.reached()
	if len(l.rest) > 0 {
		return nil
	}
	clear(l.events)
	if len(l.members) == 0 {
		l.events, l.rest = nil, nil // an empty room holds no buffer
	}
	return l.ended
}

// event must only be called from the room loop.
func (l *Loop) event(e *broker.Event) {
	switch e.Type {
	case broker.EventMessage:
		l.message(e.Message)
	case broker.EventSignal:
		l.signal(e)
	case broker.EventJoined:
		var came []broker.Member
		for _, m := range e.Members {
			if l.there.Join(m) {
				came = append(came, broker.Member{User: m.User, Name: m.Name})
			}
		}
		l.tellAll(len(came), func(door, i int) *frame { return l.Stream().joined(door, came[i]) })
	case broker.EventLeft:
		var gone []broker.Member
		var reasons []string
		for _, m := range e.Members {
			reason := l.reasons[m.Client].reason
			delete(l.reasons, m.Client)
			if who, last := l.there.Leave(m.Client); last {
				gone, reasons = append(gone, who), append(reasons, reason)
			}
		}
		l.tellAll(len(gone), func(door, i int) *frame { return l.Stream().left(door, gone[i], reasons[i]) })
	case broker.EventGap:
		l.gap(e.Gap, e.Cursor)
	}
}

// message must only be called from the room loop.
func (l *Loop) message(m *broker.Message) {
	if m.Cursor.Epoch == l.pos.Epoch && m.Cursor.Seq <= l.pos.Seq {
		return // handed out before: a broker that repeats after a reconnect
	}
	if m.Cursor.Epoch != l.pos.Epoch || m.Prev != l.pos.Seq {
		after := l.pos.Seq
		l.cfg.Go(func() { // a logger is the service's code
			l.cfg.Logger.Error("hub: the broker left out messages", "room", l.cfg.Name,
				"after", after, "before", m.Cursor.Seq)
		})
		l.gap(broker.GapBounds{After: l.pos.Seq, Before: m.Cursor.Seq, Missed: -1},
			broker.Cursor{Epoch: m.Cursor.Epoch, Seq: m.Prev})
	}
	frames := l.encode(func(door int) *frame { return l.Stream().Message(door, m) })
	l.out.addAll(&frames)
	l.pos = m.Cursor
	if l.catching > 0 {
		l.keep(tailed{m: m, frames: frames})
		l.wake()
	}
}

// gap tells everyone that the room's stream goes on at another place. Room loop only.
func (l *Loop) gap(g broker.GapBounds, at broker.Cursor) {
	reset := at.Epoch != l.Stream().Epoch
	if reset {
		l.current.Store(l.stream(at.Epoch))
	}
	for door, n := range l.doors {
		if n > 0 {
			l.out.add(door, l.Stream().gap(door, g, reset))
		}
	}
	l.pos = at
	l.tail, l.tailSize = nil, 0
	l.wake()
}

// signal must only be called from the room loop.
func (l *Loop) signal(e *broker.Event) {
	s := e.Signal
	if s.To != (broker.Target{}) {
		n := 0
		for _, m := range l.targets(s.To) {
			l.flush() // keep the order in which the broker gave them
			if f := l.Stream().signal(m.Door, s); f != nil {
				l.group.SendTo(m.place, forDoor(m.Door, f))
				n++
			}
		}
		if e.Reached != nil {
			e.Reached(n)
		}
		return
	}
	if s.Type == SignalTyping {
		l.flush()
		var b batches
		frames := l.encode(func(door int) *frame { return l.Stream().signal(door, s) })
		b.addAll(&frames)
		var except *fanout.Member
		if m := l.clients[s.From.Client]; m != nil {
			except = m.place
		}
		if out := b.take(); out != nil {
			l.group.Send(out, except)
		}
		return
	}
	frames := l.encode(func(door int) *frame { return l.Stream().signal(door, s) })
	l.out.addAll(&frames)
}

// encode makes the frames of a message for the doors in use: one for each door, and of
// that one deflated for those of its members who take it so. Room loop only.
func (l *Loop) encode(encode func(door int) *frame) (frames [fanout.Doors]*frame) {
	for _, door := range [...]int{Plain, JSON} {
		deflated := l.doors[door|Deflated] > 0
		if l.doors[door] == 0 && !deflated {
			continue
		}
		frames[door] = encode(door)
		if deflated {
			frames[door|Deflated] = l.Stream().deflate(frames[door])
		}
		if l.doors[door] == 0 {
			frames[door] = nil
		}
	}
	return frames
}

// targets must only be called from the room loop.
func (l *Loop) targets(to broker.Target) []*Member {
	if to.User != "" {
		return l.users[to.User]
	}
	if m := l.clients[to.Client]; m != nil {
		return []*Member{m}
	}
	return nil
}

// maxChanges is how many joins or leaves of one moment are told one by one: a quarter of
// the default queue of a client. Where a process with thousands of members dies, others
// get one list of who is there.
const maxChanges = 64

// tellAll sends n changes of presence to every member, live or not. Room loop only.
func (l *Loop) tellAll(n int, encode func(door, i int) *frame) {
	if n == 0 {
		return
	}
	l.flush()
	var b batches
	for door, users := range l.doors {
		if users == 0 {
			continue
		}
		if n > maxChanges {
			b.add(door, l.Stream().presence(door, l.there.Some(wire.MaxListMembers), l.there.Len()))
			continue
		}
		for i := range n {
			b.add(door, encode(door, i))
		}
	}
	if out := b.take(); out != nil {
		l.group.SendAll(out)
	}
}

// flush sends what was gathered for live members. Room loop only.
func (l *Loop) flush() {
	if out := l.out.take(); out != nil {
		l.group.Send(out, nil)
	}
}

// reached ends drains whose position was reached. Room loop only.
func (l *Loop) reached() {
	left := l.drains[:0]
	for _, d := range l.drains {
		if l.pos.Epoch == d.until.Epoch && l.pos.Seq < d.until.Seq {
			left = append(left, d)
			continue
		}
		l.group.Flush(d.done)
	}
	l.drains = left
}

// tick does what is due, and tells whether the loop is to end. Room loop only.
func (l *Loop) tick() (end bool) {
	now := time.Now()
	l.expire(now)
	l.startAnnounce(now)
	if l.empty() {
		if l.cfg.Retire() {
			return true
		}
		l.timer.Reset(l.cfg.Idle)
		return false
	}
	l.schedule()
	return false
}

// empty says that nothing holds the loop. Room loop only.
func (l *Loop) empty() bool {
	return len(l.members) == 0 && l.linger.first() == nil && l.presence.idle() && len(l.rest) == 0 && len(l.drains) == 0 && l.places.Load() == 0
}

// schedule sets the timer for what is due next. Room loop only.
func (l *Loop) schedule() {
	next := l.cfg.Idle
	if g := l.linger.first(); g != nil {
		next = min(next, time.Until(g.until))
	}
	if !l.presence.running && !l.presence.retry.IsZero() {
		next = min(next, time.Until(l.presence.retry))
	}
	l.timer.Reset(max(next, 0))
}
