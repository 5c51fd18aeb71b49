package room

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/chathub-go/hub/broker"
)

// Farewells are what loops that ended still have to tell the broker: that those are gone whom they had announced. A hub's
// loops share them, since a client may be in the room's next loop by then, on the same connection: it is not gone. The zero
// value is ready.
type Farewells struct {
	mu    sync.Mutex // guards what follows, and all that is in it; never held over a wait
	rooms map[string]*farewells
}

// farewells are those of one room, as long as there are any.
type farewells struct {
	turn chan struct{} // holds a value while somebody tells the broker of the room's presence
	list []*farewell
}

// A farewell is that of one loop.
type farewell struct {
	under <-chan struct{} // closed when the loop's last announcement has returned; nil: there was none
	gone  map[string]broker.Member
}

func (f *Farewells) of(room string) (turn chan struct{}, under []<-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.rooms[room]
	if r == nil {
		return nil, nil
	}
	for _, w := range r.list {
		if w.under != nil {
			under = append(under, w.under)
		}
	}
	return r.turn, under
}

// begin adds a farewell.
func (f *Farewells) begin(room string, w *farewell) (turn chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rooms == nil {
		f.rooms = map[string]*farewells{}
	}
	r := f.rooms[room]
	if r == nil {
		r = &farewells{turn: make(chan struct{}, 1)}
		f.rooms[room] = r
	}
	r.list = append(r.list, w)
	return r.turn
}

// end takes a farewell out.
func (f *Farewells) end(room string, w *farewell) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.rooms[room]
	for i := range r.list {
		if r.list[i] == w {
			r.list = append(r.list[:i], r.list[i+1:]...)
			break
		}
	}
	if len(r.list) == 0 {
		delete(f.rooms, room)
	}
}

// update is Lease.Update for a loop that lives: who joined is not gone, whatever an earlier loop was about to say.
func (f *Farewells) update(ctx context.Context, lease broker.Lease, room string, joined, left []broker.Member) error {
	turn, under := f.of(room)
	if turn == nil {
		return lease.Update(ctx, room, joined, left)
	}
	for _, done := range under {
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	f.here(room, joined)
	return lease.Update(ctx, room, joined, left)
}

// here takes who joined out of the room's farewells.
func (f *Farewells) here(room string, joined []broker.Member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.rooms[room]
	if r == nil {
		return
	}
	for _, w := range r.list {
		for _, m := range joined {
			delete(w.gone, m.Client)
		}
	}
}

// some returns up to maxAnnounce who are still gone.
func (f *Farewells) some(w *farewell) (gone []broker.Member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range w.gone {
		if len(gone) == maxAnnounce {
			break
		}
		gone = append(gone, m)
	}
	return gone
}

func (f *Farewells) told(w *farewell, gone []broker.Member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range gone {
		delete(w.gone, m.Client)
	}
}

// farewell tells the broker that all are gone whom the loop announced: it ends while they
// are in the room, because the broker ended the subscription or the room's closing took
// too long. Those who were cut may be back within the resume window, in the room's next
// loop, and are gone only then. Room loop only.
func (l *Loop) farewell() {
	if len(l.presence.clients) == 0 {
		return
	}
	w := &farewell{under: l.under, gone: make(map[string]broker.Member, len(l.presence.clients))}
	for client, c := range l.presence.clients {
		w.gone[client] = c.who
	}
	wait := l.cfg.ResumeWindow
	if l.closing {
		wait = 0
	}
	l.cancelAnnouncement()                       // of no use any more
	turn := l.cfg.Farewells.begin(l.cfg.Name, w) // before the next loop can announce anybody
	l.cfg.Go(func() {
		defer l.cfg.Farewells.end(l.cfg.Name, w)
		if w.under != nil {
			<-w.under // what it says must not come after this
		}
		l.tellGone(w, turn, wait)
	})
}

// tellGone runs on a goroutine of its own, while the loop ends and after.
func (l *Loop) tellGone(w *farewell, turn chan struct{}, wait time.Duration) {
	delay := minAnnounceRetry
	for {
		select {
		case <-time.After(wait):
		case <-l.cfg.Stop: // the lease ends
			return
		}
		more, err := l.tellSome(w, turn)
		switch {
		case errors.Is(err, broker.ErrClosed), !more:
			return
		case err != nil:
			wait, delay = delay, min(2*delay, maxAnnounceRetry)
		default:
			wait = 0
		}
	}
}

func (l *Loop) tellSome(w *farewell, turn chan struct{}) (more bool, err error) {
	turn <- struct{}{}
	defer func() { <-turn }()
	gone := l.cfg.Farewells.some(w)
	if len(gone) == 0 {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), announceTimeout)
	defer cancel()
	if err := l.cfg.Lease.Update(ctx, l.cfg.Name, nil, gone); err != nil {
		return true, err
	}
	l.cfg.Farewells.told(w, gone)
	return true, nil
}
