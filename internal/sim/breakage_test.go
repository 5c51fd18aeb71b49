package sim

import (
	"testing"

	"github.com/chathub-go/hub/broker"
)

// A breakage is a promise that the engine breaks, so that it is known that the simulation would notice.
type breakage string

const (
	keepsTwice       breakage = "dedup is skipped"
	losesAcked       breakage = "acked before it is committed"
	skipsEpoch       breakage = "the epoch is not checked"
	skipsTag         breakage = "the tag is not checked"
	hidesGaps        breakage = "a gap is called recovered"
	countsWrong      breakage = "a gap counts one too many"
	resetsForNothing breakage = "reset without a reason"
	swallowsEvents   breakage = "an event is lost, and the next one denies it"
	changesMessages  breakage = "an event says something else than the history"
	keepsGhosts      breakage = "the members of a dead process stay"
)

// Each promise that the engine breaks is missed by the simulation within so many seeds.
func TestBrokenEngines(t *testing.T) {
	if raced {
		t.Skip("that the checks bite has nothing to do with races")
	}
	const most = 300
	for _, b := range []breakage{
		keepsTwice, losesAcked, skipsEpoch, skipsTag, hidesGaps, countsWrong, resetsForNothing, swallowsEvents, changesMessages, keepsGhosts,
	} {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			for n := uint64(1); n <= most; n++ {
				p := newPlan(n)
				p.engine.broken = b
				if problems := simulate(t, p); len(problems) > 0 {
					t.Logf("seed %d: %s", n, problems[0])
					return
				}
			}
			t.Errorf("not noticed in %d seeds", most)
		})
	}
}

// overlook makes a position one of the present history, as far as the engine does not look at it.
func (s *shelf) overlook(c broker.Cursor) broker.Cursor {
	h := s.present()
	switch {
	case s.e.o.broken == skipsEpoch:
		return broker.Cursor{Epoch: h.epoch, Seq: min(c.Seq, h.head().Seq)}
	case s.e.o.broken == skipsTag && c.Epoch == h.epoch && c.Seq <= h.head().Seq:
		c.Tag = 0
	}
	return c
}

// forget loses what was just acked, where a process that was killed had not committed it.
func (e *engine) forget() {
	if e.o.broken != losesAcked {
		return
	}
	for _, s := range e.shelves {
		if h := s.present(); len(h.log) > 0 {
			m := h.log[len(h.log)-1]
			h.log = h.log[:len(h.log)-1]
			s.edge = min(s.edge, len(h.log))
			delete(s.dedup, dedupKey{m.From.User, m.ID})
		}
	}
}

// swallow tells whether a message is lost, without a word.
func (sub *subscription) swallow() bool {
	return sub.p.e.o.broken == swallowsEvents && len(sub.s.present().log)%20 == 10
}

// corrupt changes a message now and then.
func (sub *subscription) corrupt(m *broker.Message) *broker.Message {
	c := *m
	switch n := len(sub.s.present().log); {
	case sub.p.e.o.broken == swallowsEvents && n > 1 && n%20 == 11:
		c.Prev = sub.s.present().log[n-2].Prev
	case sub.p.e.o.broken == changesMessages && n%20 == 11:
		c.Kind, c.Data = broker.KindText, []byte("something else")
	default:
		return m
	}
	return &c
}
