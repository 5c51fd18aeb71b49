package broker

import (
	"context"
	"fmt"
	"sync"
)

// Lease implements [Broker]. The lease ends with Close alone.
func (m *Memory) Lease(ctx context.Context, node string) (Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("hub: lease: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	return &lease{m: m, rooms: make(map[*room]int)}, nil
}

// A lease is the memory broker's [Lease].
type lease struct {
	m *Memory

	mu     sync.Mutex // guards what follows; taken before Memory.mu and room.mu
	closed bool
	rooms  map[*room]int // how many members it has there; a room with members is not forgotten
}

// A holder is a client and the lease that says so.
type holder struct {
	lease  *lease
	client string
}

// Update implements [Lease]. A member that left is known by its Client alone. A join of a
// client that is there under another name is told as a join; what changes nothing makes
// no event.
func (l *lease) Update(ctx context.Context, name string, joined, left []Member) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("hub: presence: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	find := l.m.room
	if len(joined) == 0 {
		find = l.m.lookup
	}
	r, err := find(name)
	if r == nil {
		return err
	}
	var came, renamed, gone []Member
	for _, member := range joined {
		h := holder{l, member.Client}
		if old, ok := r.members[h]; !ok {
			came = append(came, member)
		} else if old != member {
			renamed = append(renamed, member)
		}
		if r.members == nil {
			r.members = make(map[holder]Member)
		}
		r.members[h] = member
	}
	for _, member := range left {
		h := holder{l, member.Client}
		if old, ok := r.members[h]; ok {
			delete(r.members, h)
			gone = append(gone, old)
		}
	}
	n := l.rooms[r] + len(came) - len(gone)
	if l.rooms[r] = n; n == 0 {
		delete(l.rooms, r)
	}
	r.changed(presence{joined: append(came, renamed...), renamed: len(renamed), left: gone})
	return nil
}

// Close implements [Lease]. It is safe to call again, and does its work also where ctx has
// ended.
func (l *lease) Close(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for r := range l.rooms {
		r.mu.Lock()
		var gone []Member
		for h, member := range r.members {
			if h.lease == l {
				delete(r.members, h)
				gone = append(gone, member)
			}
		}
		r.changed(presence{left: gone})
	}
	l.rooms = nil
	return nil
}

// changed tells the subscriptions of a change of members, and unlocks the room.
func (r *room) changed(p presence) {
	if len(p.joined)+len(p.left) > 0 {
		for _, s := range r.subs {
			s.pushPresence(p)
		}
	}
	if len(r.members) == 0 {
		r.members = nil
	}
	r.release()
}

// A presence is a change of a room's members that waits for a subscription. It is guarded
// by room.mu.
type presence struct {
	joined, left []Member // shared with other subscriptions: not changed
	renamed      int      // how many of joined, the last, were there before

	merged map[string]standing // by client, in place of the above; nil before merge
}

// A standing is what a change comes to for a member: it was there, it is there.
type standing struct {
	Member
	was, is bool
}

// merge adds a later change. Who came and went meanwhile is not mentioned, so that there
// are never more than were and are members.
func (p *presence) merge(later presence) {
	if p.merged == nil {
		earlier := *p
		*p = presence{merged: make(map[string]standing)}
		p.add(earlier)
	}
	p.add(later)
}

func (p *presence) add(c presence) {
	for i, member := range c.joined {
		was := i >= len(c.joined)-c.renamed
		if s, ok := p.merged[member.Client]; ok {
			was = s.was
		}
		p.merged[member.Client] = standing{member, was, true}
	}
	for _, member := range c.left {
		if s, ok := p.merged[member.Client]; ok && !s.was {
			delete(p.merged, member.Client)
			continue
		}
		p.merged[member.Client] = standing{member, true, false}
	}
}

// take returns the next of the change's events, joins first, and whether there is another.
// The event's Type is 0 where there is none.
func (p *presence) take() (e Event, more bool) {
	for _, s := range p.merged {
		if s.is {
			p.joined = append(p.joined, s.Member)
		} else {
			p.left = append(p.left, s.Member)
		}
	}
	p.merged = nil
	switch {
	case len(p.joined) > 0:
		e = Event{Type: EventJoined, Members: p.joined}
		p.joined, p.renamed = nil, 0
	case len(p.left) > 0:
		e = Event{Type: EventLeft, Members: p.left}
		p.left = nil
	}
	return e, len(p.left) > 0
}
