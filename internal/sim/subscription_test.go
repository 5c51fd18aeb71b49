package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/chathub-go/hub/broker"
)

// A subscription is a process's end of a room. The engine's mu guards what changes in it.
type subscription struct {
	p       *process
	s       *shelf
	head    broker.Cursor
	members []broker.Member
	ready   chan struct{}

	closed bool
	queue  []queued
	load   int // of queue, without presence
	timer  *time.Timer
	owes   map[*call]struct{}

	lose int // so many messages more get lost
	lost []*broker.Message
}

type queued struct {
	ev     broker.Event
	due    time.Time
	counts bool
}

// A call is a signal whose sender waits for answers.
type call struct {
	pending, reached int
	done             chan struct{}
}

// Subscribe implements broker.Broker.
func (p *process) Subscribe(ctx context.Context, room string) (broker.Subscription, error) {
	sub := &subscription{p: p, ready: make(chan struct{}, 1), owes: map[*call]struct{}{}}
	err := p.call(ctx, "subscribe", p.f.read, func() error {
		s := p.e.shelf(room)
		sub.s, sub.head = s, s.present().head()
		for _, m := range s.members {
			sub.members = append(sub.members, m)
		}
		s.subs = append(s.subs, sub)
		p.subs = append(p.subs, sub)
		return nil
	})
	if err != nil {
		if sub.s != nil { // the answer was lost
			sub.Close()
		}
		return nil, err
	}
	return sub, nil
}

func (sub *subscription) Head() broker.Cursor      { return sub.head }
func (sub *subscription) Members() []broker.Member { return sub.members }
func (sub *subscription) Ready() <-chan struct{}   { return sub.ready }

func (sub *subscription) Take(buf []broker.Event, n int) ([]broker.Event, error) {
	sub.p.e.mu.Lock()
	defer sub.p.e.mu.Unlock()
	if sub.closed && len(sub.queue) == 0 {
		return buf, broker.ErrClosed
	}
	now := time.Now()
	took := false
	for n > 0 && len(sub.queue) > 0 && !sub.queue[0].due.After(now) {
		q := sub.queue[0]
		sub.queue = sub.queue[1:]
		if q.counts {
			sub.load--
			took = true
		}
		buf = append(buf, q.ev)
		n--
	}
	if took {
		sub.p.e.wake()
	}
	sub.announce()
	return buf, nil
}

// announce makes Ready have a value, as soon as something is due.
func (sub *subscription) announce() {
	now := time.Now()
	switch {
	case sub.closed, len(sub.queue) > 0 && !sub.queue[0].due.After(now):
		select {
		case sub.ready <- struct{}{}:
		default:
		}
	case len(sub.queue) > 0:
		if sub.timer != nil {
			sub.timer.Stop()
		}
		sub.timer = time.AfterFunc(sub.queue[0].due.Sub(now), func() {
			sub.p.e.mu.Lock()
			defer sub.p.e.mu.Unlock()
			sub.announce()
		})
	}
}

func (sub *subscription) push(ev broker.Event, counts bool) {
	due := time.Now()
	if f := &sub.p.f; f.deliver != nil && f.late > 0 && !sub.p.e.calm {
		due = due.Add(time.Duration(f.deliver.Int64N(int64(f.late))))
	}
	if n := len(sub.queue); n > 0 && due.Before(sub.queue[n-1].due) {
		due = sub.queue[n-1].due
	}
	sub.queue = append(sub.queue, queued{ev, due, counts})
	if counts {
		sub.load++
	}
	sub.announce()
}

// message hands out m, or loses it.
func (sub *subscription) message(m *broker.Message) {
	if sub.swallow() {
		return
	}
	if sub.lose > 0 {
		sub.lose--
		sub.lost = append(sub.lost, m)
		if sub.lose == 0 {
			sub.flushLost()
		}
		return
	}
	sub.push(broker.Event{Type: broker.EventMessage, Message: sub.corrupt(m)}, true)
}

// flushLost tells of what was lost.
func (sub *subscription) flushLost() {
	sub.lose = 0
	if len(sub.lost) == 0 {
		return
	}
	count("subscription lost messages")
	sub.s.lossy = true
	first, last := sub.lost[0], sub.lost[len(sub.lost)-1]
	g := broker.GapBounds{After: first.Prev, Before: last.Cursor.Seq + 1, Missed: sub.s.count(len(sub.lost))}
	sub.lost = nil
	sub.push(broker.Event{Type: broker.EventGap, Gap: g, Cursor: last.Cursor}, true)
}

func (sub *subscription) Close() {
	sub.p.e.mu.Lock()
	defer sub.p.e.mu.Unlock()
	sub.end()
}

// end ends the subscription; what waits may still be taken.
func (sub *subscription) end() {
	if sub.closed {
		return
	}
	sub.flushLost()
	sub.closed = true
	for i := range sub.queue {
		sub.queue[i].due = time.Time{}
	}
	if sub.timer != nil {
		sub.timer.Stop()
	}
	sub.s.subs = slices.DeleteFunc(sub.s.subs, func(o *subscription) bool { return o == sub })
	sub.p.subs = slices.DeleteFunc(sub.p.subs, func(o *subscription) bool { return o == sub })
	for c := range sub.owes {
		sub.answer(c, 0)
	}
	sub.announce()
	sub.p.e.wake()
}

func (sub *subscription) answer(c *call, clients int) {
	if _, ok := sub.owes[c]; !ok {
		return
	}
	delete(sub.owes, c)
	c.reached += clients
	if c.pending--; c.pending == 0 {
		close(c.done)
	}
}

// Signal implements broker.Broker.
func (p *process) Signal(ctx context.Context, sig *broker.Signal) (reached int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("sim: signal: %w", err)
	}
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	s := p.e.shelf(sig.Room)
	for s.full() && !p.closed {
		if err := p.until(ctx, p.e.changed); err != nil && s.full() {
			return 0, fmt.Errorf("%w: %w", broker.ErrBusy, err)
		}
	}
	if p.closed {
		return 0, broker.ErrClosed
	}
	c := *sig
	if c.To == (broker.Target{}) {
		for _, sub := range s.subs {
			sub.push(broker.Event{Type: broker.EventSignal, Signal: &c}, true)
		}
		return 0, nil
	}
	return p.ask(ctx, s, &c)
}

// ask hands out a signal to someone and waits for the answers.
func (p *process) ask(ctx context.Context, s *shelf, sig *broker.Signal) (int, error) {
	c := &call{done: make(chan struct{})}
	subs := slices.Clone(s.subs)
	c.pending = len(subs)
	for _, sub := range subs {
		sub.owes[c] = struct{}{}
		sub.push(broker.Event{Type: broker.EventSignal, Signal: sig, Reached: func(clients int) {
			p.e.mu.Lock()
			defer p.e.mu.Unlock()
			sub.answer(c, clients)
		}}, true)
	}
	if c.pending == 0 {
		return 0, nil
	}
	err := p.until(ctx, c.done)
	for _, sub := range subs {
		delete(sub.owes, c)
	}
	switch {
	case p.closed:
		return c.reached, broker.ErrClosed
	case err != nil && c.pending > 0:
		return c.reached, fmt.Errorf("sim: signal: %w", err)
	}
	return c.reached, nil
}

// A lease is the presence of a process. The engine's mu guards it.
type lease struct {
	p      *process
	closed bool
}

// A holder is a client, and the lease that says so.
type holder struct {
	l      *lease
	client string
}

// Lease implements broker.Broker.
func (p *process) Lease(ctx context.Context, _ string) (broker.Lease, error) {
	l := &lease{p: p}
	err := p.call(ctx, "lease", nil, func() error {
		p.leases = append(p.leases, l)
		return nil
	})
	return l, err
}

// Update implements broker.Lease.
func (l *lease) Update(ctx context.Context, room string, joined, left []broker.Member) error {
	return l.p.call(ctx, "presence", l.p.f.update, func() error {
		if l.closed {
			return broker.ErrClosed
		}
		s := l.p.e.shelf(room)
		for _, m := range joined {
			s.members[holder{l, m.Client}] = m
		}
		s.tell(broker.EventJoined, joined)
		var gone []broker.Member
		for _, m := range left {
			if _, ok := s.members[holder{l, m.Client}]; ok {
				delete(s.members, holder{l, m.Client})
				gone = append(gone, m)
			}
		}
		s.tell(broker.EventLeft, gone)
		return nil
	})
}

func (s *shelf) tell(t broker.EventType, members []broker.Member) {
	if len(members) == 0 {
		return
	}
	for _, sub := range s.subs {
		sub.push(broker.Event{Type: t, Members: slices.Clone(members)}, false)
	}
}

// Close implements broker.Lease.
func (l *lease) Close(context.Context) error {
	l.p.e.mu.Lock()
	defer l.p.e.mu.Unlock()
	if l.p.closed { // a dead process can't say so
		return broker.ErrClosed
	}
	l.end()
	return nil
}

// end takes all its members out.
func (l *lease) end() {
	if l.closed {
		return
	}
	l.closed = true
	for _, s := range l.p.e.shelves {
		var gone []broker.Member
		for h, m := range s.members {
			if h.l == l {
				delete(s.members, h)
				gone = append(gone, m)
			}
		}
		s.tell(broker.EventLeft, gone)
	}
}
