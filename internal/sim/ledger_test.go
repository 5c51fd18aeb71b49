package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/chathub-go/hub/broker"
)

// An outcome is what a publisher knows of a message in the end.
type outcome uint8

const (
	unknown outcome = iota // it may be kept, once
	acked
	refused // for good: it is not kept
	unsent  // it was never sent
)

func (o outcome) String() string { return [...]string{"unknown", "acked", "refused", "unsent"}[o] }

// A sent is one message that somebody published, or wanted to. It belongs to its publisher until the run is over.
type sent struct {
	room, name, id string
	key            string
	kind           broker.Kind
	data           []byte
	sum            uint64
	token          string // in data, if it is long enough

	outcome   outcome
	why       string // of refused
	seq       uint64
	cursor    string
	duplicate bool
	sentAs    int // the number of the sending that was acked, where that was no duplicate
}

// A ledger is what all publishers published, by publisher in the order in which they wanted to.
type ledger struct {
	mu   sync.Mutex // guards what follows
	all  map[string][]*sent
	free map[string]bool // publishers whose messages are not held back behind one that was refused
}

// An author makes messages.
type author struct {
	name string
	rnd  *rand.Rand
	n    int
	big  int // bytes of the largest messages
	keys bool
	ids  bool
}

// message makes the next, of a size that is small in general.
func (a *author) message(room string) *sent {
	a.n++
	size, kind, key := a.rnd.Float64(), a.rnd.IntN(10), a.rnd.IntN(4)
	s := &sent{room: room, name: a.name, token: fmt.Sprintf("%s-%d", a.name, a.n)}
	n := int(size * 120)
	if size > 0.95 {
		n = a.rnd.IntN(a.big)
	}
	pad := strings.Repeat("pad ", n/4)
	switch {
	case kind < 6 || !a.ids && kind < 8:
		s.kind, s.data = broker.KindText, []byte(s.token+" "+pad)
		if size < 0.03 && a.ids {
			s.data = nil
		}
	case kind < 8:
		s.kind = broker.KindJSON
		s.data, _ = json.Marshal(map[string]string{"t": s.token, "pad": pad})
	default:
		s.kind, s.data = broker.KindBinary, []byte("\xff\x00"+s.token+" "+pad)
	}
	if a.keys && key > 0 {
		s.key = fmt.Sprint("k", key)
	}
	if a.ids {
		s.id = fmt.Sprint("m", a.n)
	}
	s.sum = sum(&broker.Message{Kind: s.kind, Data: s.data, Key: s.key})
	return s
}

func (l *ledger) add(s *sent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[s.name] = append(l.all[s.name], s)
}

// check holds what was published against what the rooms had.
func (l *ledger) check(e *engine) (wrong []string) {
	fail := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for _, s := range e.shelves {
		for n, h := range s.histories {
			found := l.match(s, h, fail)
			if n == len(s.histories)-1 {
				l.missing(s, found, fail)
			}
			l.order(s, found, fail)
		}
	}
	for name, list := range l.all {
		for _, m := range list {
			if m.outcome == acked {
				l.ackHolds(e, name, m, fail)
			}
		}
	}
	return wrong
}

// match finds for each message of a history who published it.
func (l *ledger) match(s *shelf, h *history, fail func(string, ...any)) map[*sent]*broker.Message {
	byID, byToken := map[[2]string]*sent{}, map[string]*sent{}
	for name, list := range l.all {
		for _, m := range list {
			if m.room != s.name {
				continue
			}
			if m.id != "" {
				byID[[2]string{name, m.id}] = m
			} else {
				byToken[m.token] = m
			}
		}
	}
	found := map[*sent]*broker.Message{}
	for _, m := range h.log {
		p := byID[[2]string{m.From.Name, m.ID}]
		if m.ID == "" {
			data, _, _ := bytes.Cut(bytes.TrimPrefix(m.Data, []byte("\xff\x00")), []byte(" "))
			p = byToken[string(data)]
		}
		switch {
		case p == nil:
			fail("%s: %s, id %q by %s: nobody published it", s.name, position(m.Cursor), m.ID, m.From.Name)
		case found[p] != nil:
			fail("%s: %s, id %q by %s: it is there twice, the first is %s", s.name, position(m.Cursor), m.ID, m.From.Name, position(found[p].Cursor))
		case sum(m) != p.sum:
			fail("%s: %s, id %q by %s: it says something else than was published", s.name, position(m.Cursor), m.ID, m.From.Name)
		case p.outcome == refused || p.outcome == unsent:
			fail("%s: %s, id %q by %s: it is there, its publisher was told that it is %v %s", s.name, position(m.Cursor), m.ID, m.From.Name, p.outcome, p.why)
		}
		if p != nil {
			found[p] = m
		}
	}
	return found
}

// missing wants what was acked to be in the room's present history, unless it was in one that is gone.
func (l *ledger) missing(s *shelf, found map[*sent]*broker.Message, fail func(string, ...any)) {
	for name, list := range l.all {
		for _, m := range list {
			if m.room == s.name && m.outcome == acked && found[m] == nil && len(s.histories) == 1 {
				fail("%s: %s by %s was acked, at %d, and is not there", s.name, m.token, name, m.seq)
			}
		}
	}
}

// ackHolds wants the position in an ack to be that of the message, in a history that the room had.
func (l *ledger) ackHolds(e *engine, name string, m *sent, fail func(string, ...any)) {
	at, err := broker.ParseCursor(m.cursor)
	if err != nil || at.Seq != m.seq {
		fail("%s by %s: acked at %d with cursor %q (%v)", m.token, name, m.seq, m.cursor, err)
		return
	}
	for _, h := range e.shelves[m.room].histories {
		if !h.has(at) || at.Tag == 0 {
			continue
		}
		if kept := h.log[h.upTo(at.Seq)-1]; kept.From.Name == name && kept.ID == m.id && sum(kept) == m.sum {
			return
		}
	}
	fail("%s: %s by %s was acked at %s, and that is not its place in any history", m.room, m.token, name, position(at))
}

// order wants each publisher's messages in the order in which it sent them.
func (l *ledger) order(s *shelf, found map[*sent]*broker.Message, fail func(string, ...any)) {
	for name, list := range l.all {
		if l.free[name] {
			list = bySending(list)
		}
		var last *broker.Message
		for _, m := range list {
			kept := found[m]
			if kept == nil || m.outcome == unknown { // given up, it may come late, from a connection that was lost
				continue
			}
			if last != nil && kept.Cursor.Seq < last.Cursor.Seq {
				fail("%s: %s by %s is at %d, and id %q, which was sent before it, at %d; held back: %v", s.name, m.token, name, kept.Cursor.Seq, last.ID,
					last.Cursor.Seq, !l.free[name])
			}
			last = kept
		}
	}
}

// bySending returns those of a list whose sending is known, in that order.
func bySending(list []*sent) []*sent {
	var some []*sent
	for _, m := range list {
		if m.outcome == acked && !m.duplicate {
			some = append(some, m)
		}
	}
	slices.SortFunc(some, func(a, b *sent) int { return a.sentAs - b.sentAs })
	return some
}
