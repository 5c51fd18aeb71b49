package broker

import "context"

// Local is the part of a broker that stays within one process: subscriptions with a bound for what
// waits for them, signals, and presence. It is for those who write a broker that keeps its
// messages elsewhere; they order and keep a message themselves, and hand it out here:
//
//	place, err := local.Admit(ctx, m) // waits while a subscription is full
//	... keep the message, and fill its Time, Cursor and Prev ...
//	place.Deliver(m) // or place.Release(), where it was not kept
//
// All methods may be called concurrently. The order of a room's events is that of the calls of
// Deliver, so one goroutine at a time delivers to a room, and none while another subscribes to it.
type Local struct{ m *Memory }

// NewLocal returns a Local with the bounds that [WithWaiting] and [WithRooms] set; a room counts for the
// latter when it has, or had, a subscription or a member. Other options have no effect.
func NewLocal(opts ...MemoryOption) *Local {
	m := NewMemory(opts...)
	m.o.retention = retention{}
	m.dedup = nil
	return &Local{m}
}

// A Place is what [Local.Admit] reserved for a message: for the subscriptions the message counts as one
// that waits. It ends with Deliver or Release, of which one is called once.
type Place struct {
	local *Local
	room  *room // nil: nobody listened
	size  int
}

// Admit waits until no subscription of m's room has reached its bound and who came earlier was
// served. An error that wraps the context's wraps [ErrBusy] too.
func (l *Local) Admit(ctx context.Context, m *Message) (Place, error) {
	r, err := l.m.lookup(m.Room)
	if r == nil {
		return Place{local: l}, err
	}
	if _, err := r.admit(ctx); err != nil {
		return Place{}, err
	}
	p := Place{local: l, room: r, size: m.size()}
	r.reserve(1, p.size)
	r.release()
	return p, nil
}

// Full tells whether Admit would wait now.
func (l *Local) Full(name string) bool {
	r, err := l.m.lookup(name)
	if r == nil || err != nil {
		return false
	}
	defer r.unlock()
	return r.full > 0 || r.firstWaiter != nil
}

// Release gives the place back.
func (p Place) Release() {
	if r := p.room; r != nil {
		r.mu.Lock()
		r.reserve(-1, -p.size)
		r.release()
	}
}

// Deliver hands m, which is kept, to the room's subscriptions, and does not wait. They share m.
func (p Place) Deliver(m *Message) {
	r := p.room
	if r == nil { // somebody may listen now
		if r, _ = p.local.m.lookup(m.Room); r == nil {
			return
		}
		p.size = m.size()
	} else {
		r.mu.Lock()
		r.reserve(-1, -p.size)
	}
	for _, s := range r.subs {
		s.push(waiting{msg: m, size: p.size})
	}
	r.release()
}

// reserve changes what counts as waiting for every subscription of the room.
func (r *room) reserve(events, bytes int) {
	r.reserved += events
	r.reservedBytes += bytes
	for _, s := range r.subs {
		s.checkFull()
	}
}

// Subscribe begins to receive a room's events. head is its position: the first message that is delivered
// later follows it.
func (l *Local) Subscribe(ctx context.Context, name string, head Cursor) (Subscription, error) {
	s, err := l.m.Subscribe(ctx, name)
	if err != nil {
		return nil, err
	}
	s.(*subscription).head = head // nobody else has it yet
	return s, nil
}

// Signal is that of [Broker].
func (l *Local) Signal(ctx context.Context, s *Signal) (int, error) { return l.m.Signal(ctx, s) }

// Lease is that of [Broker]; it ends with Close alone.
func (l *Local) Lease(ctx context.Context, node string) (Lease, error) { return l.m.Lease(ctx, node) }

// Close ends all subscriptions and releases whoever waits, with [ErrClosed].
func (l *Local) Close() error { return l.m.Close() }
