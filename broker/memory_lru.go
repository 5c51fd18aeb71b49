package broker

import "container/heap"

// An lru gives the room that was not used for the longest, of those in it. Use is free:
// it only changes room.used, and min catches up with that. It is guarded by Memory.mu.
type lru struct {
	of    int // which of a room's places is this one's
	rooms []*room
}

// The lrus that a room may be in.
const (
	idleRooms = iota // with neither subscription nor member: may be forgotten
	fullRooms        // with messages: may be trimmed
)

// A place is a room's place in an lru, guarded by Memory.mu.
type place struct {
	index int    // in lru.rooms
	used  uint64 // room.used as min saw it last
}

func (l *lru) Len() int { return len(l.rooms) }

func (l *lru) Less(i, j int) bool {
	return l.rooms[i].places[l.of].used < l.rooms[j].places[l.of].used
}

func (l *lru) Swap(i, j int) {
	a, b := l.rooms[i], l.rooms[j]
	l.rooms[i], l.rooms[j] = b, a
	a.places[l.of].index, b.places[l.of].index = j, i
}

func (l *lru) Push(x any) {
	r := x.(*room)
	r.places[l.of] = place{len(l.rooms), r.used.Load()}
	l.rooms = append(l.rooms, r)
}

func (l *lru) Pop() any {
	n := len(l.rooms) - 1
	r := l.rooms[n]
	l.rooms[n] = nil
	l.rooms = l.rooms[:n]
	return r
}

// min returns the room that was not used for the longest, nil if there is none. A room whose
// use min saw last is a lower bound, so the smallest that is up to date is the smallest.
func (l *lru) min() *room {
	for len(l.rooms) > 0 {
		r := l.rooms[0]
		used := r.used.Load()
		if p := &r.places[l.of]; p.used != used {
			p.used = used
			heap.Fix(l, 0)
			continue
		}
		return r
	}
	return nil
}

// add and remove are called with r.mu held too, for r.in.

func (l *lru) add(r *room) {
	if !r.in[l.of] {
		r.in[l.of] = true
		heap.Push(l, r)
	}
}

func (l *lru) remove(r *room) {
	if r.in[l.of] {
		r.in[l.of] = false
		heap.Remove(l, r.places[l.of].index)
	}
}
