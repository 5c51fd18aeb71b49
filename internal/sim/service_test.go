package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/chathub-go/hub"
)

// serve is the service itself: it publishes by any of the hubs, one message at a time, and repeats what
// has no receipt.
func (w *world) serve() {
	r := rand.New(rand.NewPCG(w.p.seed, 's'))
	a := author{name: "service", rnd: r, big: w.p.big, keys: w.p.keys, ids: true}
	start := time.Now()
	var at time.Duration
	for range w.p.service {
		at += time.Duration(r.Float64() * r.Float64() * float64(2*w.p.load) / float64(w.p.service))
		room, first, timeout := w.room(r), r.IntN(w.p.hubs), time.Duration(r.Float64()*float64(2*time.Second))
		m := a.message(room)
		w.until(start.Add(at))
		if w.calm() {
			return
		}
		w.ledger.add(m)
		for try := first; m.outcome == unknown && try < first+20; try++ {
			w.servePublish(w.sites[try%w.p.hubs], m, timeout)
			timeout += time.Second
		}
	}
}

func (w *world) servePublish(s *site, m *sent, timeout time.Duration) {
	h := s.current()
	if h == nil {
		w.pause(500 * time.Millisecond)
		return
	}
	room, err := h.Room(m.room)
	if err != nil {
		w.pause(100 * time.Millisecond)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	receipt, err := room.Publish(ctx, hub.Message{
		ID: m.id, Kind: m.kind, Data: m.data, Key: m.key, From: hub.Member{User: "service", Name: m.name},
	})
	switch {
	case err == nil:
		m.outcome, m.seq, m.cursor, m.duplicate = acked, receipt.Cursor.Seq, receipt.Cursor.String(), receipt.Duplicate
	case errors.Is(err, hub.ErrIDReused):
		w.fail("service: %s: %v", m.token, err)
	default:
		count("service repeats")
		w.pause(100 * time.Millisecond)
	}
}
