package brokertest_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/broker/brokertest"
)

// A disk is what the brokers of several processes keep in common, and outlives them. It is all that
// [broker.Memory] is not: its seqs have holes, it can't count what a gap has lost, publishes
// never wait, and it can be made to lose what it had.
type disk struct {
	messages int
	age      time.Duration
	window   time.Duration
	lease    time.Duration // for which the presence of a killed process stays
	faults

	mu    sync.Mutex // guards what follows, and all of rooms and subscriptions
	rooms map[string]*diskRoom
	seen  map[diskKey]diskReceipt
}

// faults are what a disk does wrong.
type faults struct {
	tag      func(seq uint64, random uint64) uint64
	clock    func(seq uint64, now time.Time) time.Time
	edge     bool // the tag of the newest message that is not kept is not compared
	dense    bool // no fault: seqs have no holes
	deaf     bool // a closed process's subscriptions still count
	ghosts   bool // a closed process's members stay
	immortal bool // a killed process's members stay
	alone    bool // one process that closes ends the subscriptions of all
	lazy     bool // what waits for a subscription when its process closes is lost
	stale    bool // what is lost is remembered by its id
}

type diskRoom struct {
	head, edge broker.Cursor // edge: the newest message that is not kept
	kept       []*broker.Message
	subs       []*diskSub
	members    map[diskMember]broker.Member
}

type diskKey struct{ room, user, id string }

type diskReceipt struct {
	broker.Receipt
	payload string
	at      time.Time // begins the window
}

type diskMember struct {
	lease  *diskLease
	client string
}

func newDisk(l brokertest.Limits) *disk {
	d := &disk{messages: 256, age: time.Hour, window: 10 * time.Minute, lease: time.Millisecond}
	if l.Messages > 0 {
		d.messages = l.Messages
	}
	if l.Age > 0 {
		d.age = l.Age
	}
	if l.DedupWindow > 0 {
		d.window = l.DedupWindow
	}
	d.rooms, d.seen = make(map[string]*diskRoom), make(map[diskKey]diskReceipt)
	d.tag = func(_, random uint64) uint64 { return random }
	d.clock = func(_ uint64, now time.Time) time.Time { return now }
	return d
}

// room returns the room of that name, without what has become too old. It is called with mu held.
func (d *disk) room(name string) *diskRoom {
	r := d.rooms[name]
	if r == nil {
		epoch := broker.Cursor{Epoch: fmt.Sprintf("%016x", rand.Uint64())}
		r = &diskRoom{head: epoch, edge: epoch, members: make(map[diskMember]broker.Member)}
		d.rooms[name] = r
	}
	for len(r.kept) > 0 && (len(r.kept) > d.messages || time.Since(r.kept[0].Time) >= d.age) {
		r.edge = r.kept[0].Cursor
		r.kept = r.kept[1:]
	}
	return r
}

// lose takes back the last n messages of a room, as if they had never been.
func (d *disk) lose(name string, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.room(name)
	r.lose(n)
	if !d.stale {
		d.forget(func(k diskKey, rec diskReceipt) bool { return k.room == name && rec.Cursor.Seq > r.head.Seq })
	}
}

func (r *diskRoom) lose(n int) {
	r.kept = r.kept[:max(0, len(r.kept)-n)]
	r.head = r.edge
	if len(r.kept) > 0 {
		r.head = r.kept[len(r.kept)-1].Cursor
	}
}

// forget drops ids. It is called with mu held.
func (d *disk) forget(which func(diskKey, diskReceipt) bool) { maps.DeleteFunc(d.seen, which) }

// A diskBroker is one process's broker on a disk.
type diskBroker struct {
	d     *disk
	ended error // nil: open
}

func openDisk(_ *testing.T, l brokertest.Limits) broker.Broker { return &diskBroker{d: newDisk(l)} }

// another returns the broker of another process.
func (b *diskBroker) another() broker.Broker { return &diskBroker{d: b.d} }

var errKilled = errors.New("killed")

func (b *diskBroker) Close() error {
	b.end(broker.ErrClosed)
	return nil
}

func (b *diskBroker) kill() { b.end(errKilled) }

func (b *diskBroker) end(with error) {
	d := b.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.ended != nil {
		return
	}
	b.ended = with
	for _, r := range d.rooms {
		for _, s := range r.subs {
			if s.b == b || d.alone {
				s.end(with)
			}
			if s.b == b && d.lazy {
				r.lose(len(s.queue))
			}
		}
		if !d.deaf {
			r.subs = slices.DeleteFunc(r.subs, func(s *diskSub) bool { return s.b == b })
		}
	}
	mine := func(l *diskLease) bool { return l.b == b }
	switch {
	case with == broker.ErrClosed && !d.ghosts:
		d.leave(mine)
	case with == errKilled && !d.immortal:
		time.AfterFunc(d.lease, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.leave(mine)
		})
	}
}

// enter begins a call.
func (b *diskBroker) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	b.d.mu.Lock()
	if b.ended != nil {
		b.d.mu.Unlock()
		return b.ended
	}
	return nil
}

func (b *diskBroker) Publish(ctx context.Context, m *broker.Message) (broker.Receipt, error) {
	if err := b.enter(ctx); err != nil {
		return broker.Receipt{}, err
	}
	d := b.d
	defer d.mu.Unlock()
	key, payload := diskKey{m.Room, m.From.User, m.ID}, fmt.Sprintf("%d %q %q", m.Kind, m.Key, m.Data)
	if first, ok := d.seen[key]; ok && m.ID != "" && time.Since(first.at) < d.window {
		if first.payload != payload {
			return broker.Receipt{}, broker.ErrIDReused
		}
		first.Duplicate = true
		return first.Receipt, nil
	}
	r := d.room(m.Room)
	kept := *m
	kept.Prev = r.head.Seq
	r.head.Seq++
	if !d.dense {
		r.head.Seq += rand.Uint64N(3)
	}
	r.head.Tag = d.tag(r.head.Seq, 1+rand.Uint64N(1<<63))
	kept.Cursor, kept.Time = r.head, d.clock(r.head.Seq, time.Now())
	r.kept = append(r.kept, &kept)
	d.room(m.Room)
	receipt := broker.Receipt{Cursor: kept.Cursor, Time: kept.Time}
	d.seen[key] = diskReceipt{receipt, payload, time.Now()}
	r.tell(broker.Event{Type: broker.EventMessage, Message: &kept})
	return receipt, nil
}

func (b *diskBroker) Signal(ctx context.Context, s *broker.Signal) (int, error) {
	if err := b.enter(ctx); err != nil {
		return 0, err
	}
	d := b.d
	r, sent := d.room(s.Room), *s
	if s.To == (broker.Target{}) {
		r.tell(broker.Event{Type: broker.EventSignal, Signal: &sent})
		d.mu.Unlock()
		return 0, nil
	}
	answers := make(chan int, len(r.subs))
	for _, sub := range r.subs {
		var once sync.Once
		answer := func(clients int) { once.Do(func() { answers <- clients }) }
		sub.owes = append(sub.owes, func() { answer(0) })
		sub.push(broker.Event{Type: broker.EventSignal, Signal: &sent, Reached: answer})
	}
	n := len(r.subs)
	d.mu.Unlock()
	reached := 0
	for range n {
		select {
		case clients := <-answers:
			reached += clients
		case <-ctx.Done():
			return reached, fmt.Errorf("disk: %w", ctx.Err())
		}
	}
	return reached, nil
}

func (b *diskBroker) Subscribe(ctx context.Context, room string) (broker.Subscription, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.d.mu.Unlock()
	r := b.d.room(room)
	s := &diskSub{b: b, room: r, head: r.head, ready: make(chan struct{}, 1)}
	s.members = slices.Collect(maps.Values(r.members))
	r.subs = append(r.subs, s)
	return s, nil
}

func (b *diskBroker) Since(ctx context.Context, room string, after broker.Cursor, limit int) (broker.Page, error) {
	if err := b.enter(ctx); err != nil {
		return broker.Page{}, err
	}
	defer b.d.mu.Unlock()
	r := b.d.room(room)
	p := broker.Page{Verdict: broker.Recovered, Next: after, Head: r.head}
	if after == (broker.Cursor{}) {
		after.Epoch = r.head.Epoch
	}
	next, _ := slices.BinarySearchFunc(r.kept, after.Seq+1, func(m *broker.Message, seq uint64) int { return int(int64(m.Cursor.Seq - seq)) })
	at := r.edge // what the cursor is of
	if next > 0 {
		at = r.kept[next-1].Cursor
	}
	switch {
	case after.Epoch != r.head.Epoch || after.Seq > r.head.Seq || after.Seq == 0 && after.Tag != 0:
		p.Verdict, p.Next = broker.Reset, r.head
		return p, nil
	case after.Seq < r.edge.Seq:
		p.Verdict, p.Next = broker.Gap, r.head
		p.Gap = broker.GapBounds{After: after.Seq, Before: r.edge.Seq + 1, Missed: -1}
	case after.Tag != 0 && after != at && !(b.d.edge && after.Seq == r.edge.Seq):
		p.Verdict, p.Next = broker.Reset, r.head
		return p, nil
	}
	p.Messages = slices.Clone(r.kept[next:min(next+limit, len(r.kept))])
	p.More = next+len(p.Messages) < len(r.kept)
	if len(p.Messages) > 0 {
		p.Next = p.Messages[len(p.Messages)-1].Cursor
	}
	return p, nil
}

func (b *diskBroker) Before(ctx context.Context, room string, before uint64, limit int) (broker.Page, error) {
	if err := b.enter(ctx); err != nil {
		return broker.Page{}, err
	}
	defer b.d.mu.Unlock()
	r := b.d.room(room)
	end := len(r.kept)
	for before > 0 && end > 0 && r.kept[end-1].Cursor.Seq >= before {
		end--
	}
	first := max(0, end-limit)
	p := broker.Page{Messages: slices.Clone(r.kept[first:end]), Next: r.head, Head: r.head, More: first > 0}
	if first < end {
		p.Next = r.kept[end-1].Cursor
	}
	return p, nil
}

func (b *diskBroker) Head(ctx context.Context, room string) (broker.Cursor, error) {
	if err := b.enter(ctx); err != nil {
		return broker.Cursor{}, err
	}
	defer b.d.mu.Unlock()
	return b.d.room(room).head, nil
}

// A diskSub is the subscription of one process.
type diskSub struct {
	b       *diskBroker
	room    *diskRoom
	head    broker.Cursor
	members []broker.Member
	ready   chan struct{}

	queue []broker.Event
	owes  []func() // answer for whoever has not
	ended error
}

func (r *diskRoom) tell(ev broker.Event) {
	for _, s := range r.subs {
		s.push(ev)
	}
}

func (s *diskSub) push(ev broker.Event) {
	if s.ended == nil {
		s.queue = append(s.queue, ev)
		s.wake()
	}
}

func (s *diskSub) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *diskSub) Head() broker.Cursor      { return s.head }
func (s *diskSub) Members() []broker.Member { return s.members }
func (s *diskSub) Ready() <-chan struct{}   { return s.ready }

func (s *diskSub) Take(buf []broker.Event, n int) ([]broker.Event, error) {
	s.b.d.mu.Lock()
	defer s.b.d.mu.Unlock()
	if s.ended != nil && len(s.queue) == 0 {
		return buf, s.ended
	}
	n = min(n, len(s.queue))
	buf = append(buf, s.queue[:n]...)
	s.queue = s.queue[n:]
	if len(s.queue) > 0 || s.ended != nil {
		s.wake()
	}
	return buf, nil
}

func (s *diskSub) Close() {
	s.b.d.mu.Lock()
	defer s.b.d.mu.Unlock()
	s.end(broker.ErrClosed)
	s.room.subs = slices.DeleteFunc(s.room.subs, func(o *diskSub) bool { return o == s })
}

// end ends the subscription, which stays in its room.
func (s *diskSub) end(with error) {
	if s.ended != nil {
		return
	}
	s.ended = with
	s.wake()
	if !s.b.d.deaf {
		for _, answer := range s.owes {
			answer()
		}
	}
}

// A diskLease is one process's presence.
type diskLease struct {
	b     *diskBroker
	ended bool
}

func (b *diskBroker) Lease(ctx context.Context, _ string) (broker.Lease, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.d.mu.Unlock()
	return &diskLease{b: b}, nil
}

func (l *diskLease) Update(ctx context.Context, room string, joined, left []broker.Member) error {
	if err := l.b.enter(ctx); err != nil {
		return err
	}
	defer l.b.d.mu.Unlock()
	if l.ended {
		return broker.ErrClosed
	}
	r := l.b.d.room(room)
	for _, m := range joined {
		r.members[diskMember{l, m.Client}] = m
	}
	for _, m := range left {
		delete(r.members, diskMember{l, m.Client})
	}
	if len(joined) > 0 {
		r.tell(broker.Event{Type: broker.EventJoined, Members: joined})
	}
	if len(left) > 0 {
		r.tell(broker.Event{Type: broker.EventLeft, Members: left})
	}
	return nil
}

func (l *diskLease) Close(context.Context) error {
	d := l.b.d
	d.mu.Lock()
	defer d.mu.Unlock()
	l.ended = true
	d.leave(func(o *diskLease) bool { return o == l })
	return nil
}

// leave takes away the members of some leases.
func (d *disk) leave(of func(*diskLease) bool) {
	for _, r := range d.rooms {
		var left []broker.Member
		for m, member := range r.members {
			if of(m.lease) {
				left = append(left, member)
				delete(r.members, m)
			}
		}
		if len(left) > 0 {
			r.tell(broker.Event{Type: broker.EventLeft, Members: left})
		}
	}
}
