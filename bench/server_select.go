package main

import (
	"net/http"
	"sync"
)

// A selectRoom is the hub of gorilla's chat example, one for each room: a select loop that owns
// the members and puts each message into the channel of each. Who has 256 waiting is dropped.
type selectRoom[M any] struct {
	members    map[chan M]bool // room loop only
	broadcast  chan M
	join, part chan chan M
}

func newSelectRoom[M any]() *selectRoom[M] {
	r := &selectRoom[M]{
		members:   make(map[chan M]bool),
		broadcast: make(chan M, 64),
		join:      make(chan chan M),
		part:      make(chan chan M),
	}
	go r.run()
	return r
}

func (r *selectRoom[M]) run() {
	for {
		select {
		case c := <-r.join:
			r.members[c] = true
		case c := <-r.part:
			r.drop(c)
		case m := <-r.broadcast:
			for c := range r.members {
				select {
				case c <- m:
				default:
					r.drop(c)
				}
			}
		}
	}
}

func (r *selectRoom[M]) drop(c chan M) {
	if r.members[c] {
		delete(r.members, c)
		close(c)
	}
}

// selectRooms are the rooms by name.
type selectRooms[M any] struct {
	mu    sync.Mutex // guards rooms
	rooms map[string]*selectRoom[M]
}

// join makes a member of the request's room; what is for it comes on the channel, which is
// closed when it is dropped.
func (s *selectRooms[M]) join(r *http.Request) (*selectRoom[M], chan M) {
	name := r.PathValue("room")
	s.mu.Lock()
	room, ok := s.rooms[name]
	if !ok {
		if s.rooms == nil {
			s.rooms = make(map[string]*selectRoom[M])
		}
		room = newSelectRoom[M]()
		s.rooms[name] = room
	}
	s.mu.Unlock()
	c := make(chan M, 256)
	room.join <- c
	return room, c
}
