package broker

import (
	"context"
	"fmt"
	"slices"
)

// A subscription is the memory broker's [Subscription]. Whatever changes in it is
// guarded by room.mu.
type subscription struct {
	room    *room
	head    Cursor
	members []Member
	ready   chan struct{} // holds at most one value

	closed   bool
	queue    deque[waiting]
	bytes    int
	full     bool               // counted in room.full
	presence *presence          // the last in queue, nil if there is none
	owes     map[*call]struct{} // the calls that it has yet to answer
}

// A waiting is what waits for a subscription: one of msg, event and presence.
type waiting struct {
	msg      *Message
	event    *Event
	presence *presence
	size     int
}

func (s *subscription) Head() Cursor           { return s.head }
func (s *subscription) Members() []Member      { return s.members }
func (s *subscription) Ready() <-chan struct{} { return s.ready }

func (s *subscription) Take(buf []Event, n int) ([]Event, error) {
	s.room.mu.Lock()
	defer s.room.unlock()
	if s.closed && s.queue.n == 0 {
		return buf, ErrClosed
	}
	for n > 0 && s.queue.n > 0 {
		if e := s.take(); e.Type != 0 {
			buf = append(buf, e)
			n--
		}
	}
	s.checkFull()
	if s.queue.n > 0 || s.closed {
		s.wake()
	}
	return buf, nil
}

// Close is safe to call again.
func (s *subscription) Close() {
	r := s.room
	r.mu.Lock()
	if s.closed {
		r.unlock()
		return
	}
	s.end()
	r.subs = slices.DeleteFunc(r.subs, func(o *subscription) bool { return o == s })
	r.release()
}

// end closes the subscription but leaves it in room.subs.
func (s *subscription) end() {
	s.closed = true
	s.checkFull()
	for c := range s.owes {
		s.answer(c, 0)
	}
	s.wake()
}

func (s *subscription) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *subscription) push(w waiting) {
	s.queue.push(w)
	s.bytes += w.size
	s.checkFull()
	s.wake()
}

// take returns the first event that waits. Its Type is 0 where it was merged into nothing.
func (s *subscription) take() Event {
	w := *s.queue.at(0)
	if w.presence != nil {
		e, more := w.presence.take()
		if more {
			return e
		}
		s.queue.pop()
		if s.presence == w.presence {
			s.presence = nil
		}
		return e
	}
	s.queue.pop()
	s.bytes -= w.size
	if w.event != nil {
		return *w.event
	}
	return Event{Type: EventMessage, Message: w.msg}
}

// pushPresence hands out a change of members. It does not wait, so past the bound it
// merges what waits.
func (s *subscription) pushPresence(p presence) {
	if s.full && s.presence != nil {
		s.presence.merge(p)
		return
	}
	s.presence = &p
	s.push(waiting{presence: s.presence})
}

func (s *subscription) isFull() bool {
	r := s.room
	return s.queue.n+r.reserved >= r.m.o.waitingEvents || s.bytes+r.reservedBytes >= r.m.o.waitingBytes
}

// checkFull keeps room.full right after a change.
func (s *subscription) checkFull() {
	full := !s.closed && s.isFull()
	if full == s.full {
		return
	}
	s.full = full
	if full {
		s.room.full++
	} else {
		s.room.full--
	}
}

// A call is a signal whose sender waits for answers. It is guarded by room.mu.
type call struct {
	pending int // subscriptions that have not answered
	reached int
	done    chan struct{} // closed when pending is 0
}

// call hands out the signal w and returns the call for its answers.
func (r *room) call(w waiting) *call {
	c := &call{done: make(chan struct{})}
	for _, s := range r.subs {
		c.pending++
		if s.owes == nil {
			s.owes = make(map[*call]struct{})
		}
		s.owes[c] = struct{}{}
		e := *w.event
		e.Reached = func(clients int) {
			r.mu.Lock()
			defer r.unlock()
			s.answer(c, clients)
		}
		s.push(waiting{event: &e, size: w.size})
	}
	if c.pending == 0 {
		close(c.done)
	}
	return c
}

// answer counts the first answer of s to c.
func (s *subscription) answer(c *call, clients int) {
	if _, ok := s.owes[c]; !ok {
		return
	}
	delete(s.owes, c)
	c.reached += clients
	if c.pending--; c.pending == 0 {
		close(c.done)
	}
}

// hangUp takes what c has reached. Answers that come later count no more.
func (r *room) hangUp(ctx context.Context, c *call) (int, error) {
	r.mu.Lock()
	defer r.unlock()
	if r.state == roomClosed {
		return c.reached, ErrClosed
	}
	if c.pending == 0 {
		return c.reached, nil
	}
	for _, s := range r.subs {
		delete(s.owes, c)
	}
	return c.reached, fmt.Errorf("hub: signal: %w", ctx.Err())
}

// close is part of Memory.Close.
func (r *room) close() {
	r.mu.Lock()
	defer r.unlock()
	r.state = roomClosed
	for r.kept.n > 0 {
		r.drop()
	}
	for _, s := range r.subs {
		s.end()
	}
	r.subs, r.members = nil, nil
}
