package sim

import (
	"crypto/rand"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/chathub-go/hub/broker"
)

// An engine is what the brokers of several processes share: a disk, and what carries events from one to
// another. It outlives them. A message that a process publishes is pending until the engine commits it; only then
// does it have a place, is it acked, and do subscriptions hear of it. When the process is killed, each of its pending messages is
// committed or lost.
type engine struct {
	o engineOptions

	mu      sync.Mutex // guards what follows, and all that belongs to the engine
	shelves map[string]*shelf
	changed chan struct{} // closed, and another made, when a subscription may have room
	calm    bool          // nothing goes wrong any more
	slow    time.Duration // that each commit takes longer for now
}

type engineOptions struct {
	messages int           // that a room keeps
	age      time.Duration // 0: no bound
	window   time.Duration // of dedup
	lease    time.Duration // that the members of a killed process stay
	waiting  int           // events for one subscription
	sparse   bool          // seqs have holes
	coy      bool          // gaps don't say how many messages are missing
	broken   breakage      // which promise it breaks, on purpose
}

func newEngine(o engineOptions) *engine {
	return &engine{o: o, shelves: map[string]*shelf{}, changed: make(chan struct{})}
}

// A shelf is one room.
type shelf struct {
	e         *engine
	name      string
	histories []*history // the last one is the present
	edge      int        // the present one's messages before it are not kept any more
	dedup     map[dedupKey]dedupRecord
	pending   []*pending
	subs      []*subscription
	members   map[holder]broker.Member
	lossy     bool // a subscription lost events, and said so
}

// A history is all that a room ever had, from the beginning of its epoch. One that lost its tail is another
// from then on, with the same epoch.
type history struct {
	epoch string
	born  time.Time
	log   []*broker.Message
}

type dedupKey struct{ user, id string }

type dedupRecord struct {
	msg *broker.Message // as it was kept
	at  time.Time
}

// A pending is a message that is not committed.
type pending struct {
	p     *process
	m     *broker.Message
	timer *time.Timer
	done  chan struct{}   // closed when it is known what became of it
	kept  *broker.Message // nil: it was lost
}

func (e *engine) shelf(room string) *shelf {
	s := e.shelves[room]
	if s == nil {
		s = &shelf{e: e, name: room, dedup: map[dedupKey]dedupRecord{}, members: map[holder]broker.Member{}}
		s.begin()
		e.shelves[room] = s
	}
	return s
}

// begin begins another history.
func (s *shelf) begin() {
	s.histories = append(s.histories, &history{epoch: rand.Text()[:12], born: time.Now()})
	s.edge = 0
	clear(s.dedup)
}

func (s *shelf) present() *history { return s.histories[len(s.histories)-1] }

func (h *history) head() broker.Cursor {
	if n := len(h.log); n > 0 {
		return h.log[n-1].Cursor
	}
	return broker.Cursor{Epoch: h.epoch}
}

// upTo returns how many messages have a seq of at most seq.
func (h *history) upTo(seq uint64) int {
	i, found := slices.BinarySearchFunc(h.log, seq, func(m *broker.Message, seq uint64) int {
		switch {
		case m.Cursor.Seq < seq:
			return -1
		case m.Cursor.Seq > seq:
			return 1
		}
		return 0
	})
	if found {
		i++
	}
	return i
}

// has tells whether c is a position of h.
func (h *history) has(c broker.Cursor) bool {
	if c.Epoch != h.epoch || c.Seq > h.head().Seq {
		return false
	}
	i := h.upTo(c.Seq)
	if c.Tag == 0 { // where seqs have holes, it can be seen at least that no message ever stood there
		return c.Seq == 0 || i > 0 && h.log[i-1].Cursor.Seq == c.Seq
	}
	return i > 0 && h.log[i-1].Cursor == c
}

// find returns the kept message with m's key, within the window.
func (s *shelf) find(m *broker.Message) *broker.Message {
	if m.ID == "" || s.e.o.window <= 0 || s.e.o.broken == keepsTwice {
		return nil
	}
	r, ok := s.dedup[dedupKey{m.From.User, m.ID}]
	if !ok || time.Since(r.at) >= s.e.o.window {
		return nil
	}
	return r.msg
}

// findPending returns what is pending with m's key.
func (s *shelf) findPending(m *broker.Message) *pending {
	for _, p := range s.pending {
		if m.ID != "" && p.m.ID == m.ID && p.m.From.User == m.From.User {
			return p
		}
	}
	return nil
}

// commitThrough commits p and all that came before it; so they stay in the order in which they came.
func (s *shelf) commitThrough(p *pending) {
	n := slices.Index(s.pending, p) + 1
	for _, p := range s.pending[:n] {
		s.commit(p)
	}
	s.pending = slices.Delete(s.pending, 0, n)
}

func (s *shelf) commit(p *pending) {
	h := s.present()
	prev, step := h.head(), uint64(1)
	if s.e.o.sparse {
		step += mrand.Uint64N(3)
	}
	m := *p.m
	m.Time = time.Now().Round(0).UTC()
	m.Prev = prev.Seq
	m.Cursor = broker.Cursor{Epoch: h.epoch, Seq: prev.Seq + step, Tag: 1 + mrand.Uint64N(1<<64-1)}
	h.log = append(h.log, &m)
	if m.ID != "" {
		s.dedup[dedupKey{m.From.User, m.ID}] = dedupRecord{&m, time.Now()}
	}
	s.expire()
	for _, sub := range s.subs {
		sub.message(&m)
	}
	p.end(&m)
}

func (p *pending) end(kept *broker.Message) {
	if p.timer != nil {
		p.timer.Stop()
	}
	p.kept = kept
	close(p.done)
}

// withdraw loses p, if it is still pending.
func (s *shelf) withdraw(p *pending) {
	if i := slices.Index(s.pending, p); i >= 0 {
		s.pending = slices.Delete(s.pending, i, i+1)
		p.end(nil)
		s.e.wake()
	}
}

// expire moves the edge.
func (s *shelf) expire() {
	h := s.present()
	for s.edge < len(h.log) {
		old := s.e.o.age > 0 && time.Since(h.log[s.edge].Time) >= s.e.o.age
		if !old && len(h.log)-s.edge <= s.e.o.messages {
			return
		}
		s.edge++
	}
}

// full tells whether a subscription has no room for another event.
func (s *shelf) full() bool {
	for _, sub := range s.subs {
		if sub.load+len(s.pending) >= s.e.o.waiting {
			return true
		}
	}
	return false
}

func (e *engine) wake() {
	close(e.changed)
	e.changed = make(chan struct{})
}

func (s *shelf) since(after broker.Cursor, limit int) broker.Page {
	s.expire()
	h := s.present()
	head := h.head()
	if after == (broker.Cursor{}) {
		after.Epoch = h.epoch
	}
	p := broker.Page{Verdict: broker.Recovered, Next: after, Head: head}
	after = s.overlook(after)
	first := h.upTo(after.Seq)
	switch {
	case after.Seq == 0 && after.Tag != 0 || !h.has(after) || s.e.o.broken == resetsForNothing && len(h.log) > 20:
		p.Verdict, p.Next = broker.Reset, head
		return p
	case first < s.edge && s.e.o.broken == hidesGaps:
		first = s.edge
	case first < s.edge:
		p.Verdict, p.Next = broker.Gap, head
		p.Gap = broker.GapBounds{After: after.Seq, Before: h.log[s.edge-1].Cursor.Seq + 1, Missed: s.count(s.edge - first)}
		first = s.edge
	}
	p.Messages = slices.Clone(h.log[first:min(first+limit, len(h.log))])
	p.More = first+len(p.Messages) < len(h.log)
	if n := len(p.Messages); n > 0 {
		p.Next = p.Messages[n-1].Cursor
	}
	return p
}

// count is how many messages a gap says are missing.
func (s *shelf) count(n int) int {
	if s.e.o.broken == countsWrong {
		n++
	}
	if s.e.o.coy {
		return -1
	}
	return n
}

func (s *shelf) before(before uint64, limit int) broker.Page {
	s.expire()
	h := s.present()
	end := len(h.log)
	if before > 0 {
		end = max(h.upTo(before-1), s.edge)
	}
	first := max(s.edge, end-limit)
	p := broker.Page{Head: h.head(), Next: h.head(), More: first > s.edge, Messages: slices.Clone(h.log[first:end])}
	if n := len(p.Messages); n > 0 {
		p.Next = p.Messages[n-1].Cursor
	}
	return p
}

// restart is what a room of a broker without a disk has after a restart: another epoch. What is
// pending is lost. With live, subscriptions go on in the new history and say so; otherwise they end.
func (s *shelf) restart(live bool) {
	was := s.present().head()
	s.losePending()
	s.begin()
	for _, sub := range slices.Clone(s.subs) {
		if !live {
			sub.end()
			continue
		}
		sub.flushLost()
		sub.push(broker.Event{
			Type: broker.EventGap, Gap: broker.GapBounds{After: was.Seq, Before: 1, Missed: -1}, Cursor: s.present().head(),
		}, true)
	}
}

// loseTail is a failover to a replica that was behind: the last n messages have never been, and others
// will take their places, in the same epoch. Subscriptions end.
func (s *shelf) loseTail(n int) {
	s.losePending()
	was := s.present()
	n = min(n, len(was.log))
	h := &history{epoch: was.epoch, born: time.Now(), log: slices.Clone(was.log[:len(was.log)-n])}
	for _, m := range was.log[len(h.log):] {
		delete(s.dedup, dedupKey{m.From.User, m.ID})
	}
	s.histories = append(s.histories, h)
	s.edge = min(s.edge, len(h.log))
	for _, sub := range slices.Clone(s.subs) {
		sub.end()
	}
}

func (s *shelf) losePending() {
	for len(s.pending) > 0 {
		s.withdraw(s.pending[0])
	}
}
