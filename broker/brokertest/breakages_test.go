package brokertest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/broker/brokertest"
)

// Short names for what the hooks are given.
type (
	ctx  = context.Context
	seam = broker.Broker
	msg  = broker.Message
)

// onPublish, onSince and onTake are hooks that need no state.
func onPublish(f func(c ctx, b seam, m *msg) (broker.Receipt, error)) func() hooks {
	return func() hooks { return hooks{publish: f} }
}

func onSince(f func(c ctx, b seam, room string, after broker.Cursor, limit int) (broker.Page, error)) func() hooks {
	return func() hooks { return hooks{since: f} }
}

// onPage changes what Since returns.
func onPage(f func(p *broker.Page)) func() hooks {
	return onSince(func(c ctx, b seam, room string, after broker.Cursor, limit int) (broker.Page, error) {
		p, err := b.Since(c, room, after, limit)
		f(&p)
		return p, err
	})
}

func onTake(f func([]broker.Event) []broker.Event) func() hooks {
	return func() hooks { return hooks{take: f} }
}

// onEvents drops the events for which keep is false.
func onEvents(keep func(broker.Event) bool) func() hooks {
	return onTake(func(list []broker.Event) []broker.Event {
		return slices.DeleteFunc(list, func(e broker.Event) bool { return !keep(e) })
	})
}

// onMessages changes a copy of each message handed out by a subscription.
func onMessages(f func(m *msg)) func() hooks {
	return onTake(func(list []broker.Event) []broker.Event {
		for i, e := range list {
			if e.Message != nil {
				m := *e.Message
				f(&m)
				list[i].Message = &m
			}
		}
		return list
	})
}

type brokenLease struct {
	broker.Lease
	update func(l broker.Lease, c ctx, room string, joined, left []broker.Member) error
	close  func(l broker.Lease, c ctx) error
}

func (l brokenLease) Update(c ctx, room string, joined, left []broker.Member) error {
	if l.update != nil {
		return l.update(l.Lease, c, room, joined, left)
	}
	return l.Lease.Update(c, room, joined, left)
}

func (l brokenLease) Close(c ctx) error {
	if l.close != nil {
		return l.close(l.Lease, c)
	}
	return l.Lease.Close(c)
}

func onLease(l brokenLease) func() hooks {
	return func() hooks {
		return hooks{lease: func(_ ctx, inner broker.Lease) broker.Lease { l.Lease = inner; return l }}
	}
}

// firsts is a hook's memory: what came first under a key.
type firsts[T any] struct {
	mu sync.Mutex // guards m
	m  map[string]T
}

func (f *firsts[T]) get(key string, first T) T {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v, ok := f.m[key]; ok {
		return v
	}
	if f.m == nil {
		f.m = make(map[string]T)
	}
	f.m[key] = first
	return first
}

var breakages = slices.Concat(first, moreBreakages, diskBreakages)

var first = []breakage{
	{name: "nothing", fails: ""},
	{name: "nothing on a disk", fails: "", disk: true},
	{name: "nothing on a slow disk", fails: "", disk: true, hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		r, err := b.Publish(c, m)
		<-time.After(time.Millisecond)
		return r, err
	})},

	// Order.
	{name: "events swapped", fails: "Order/Publishers", hooks: onTake(func(list []broker.Event) []broker.Event {
		if len(list) > 1 {
			list[0], list[1] = list[1], list[0]
		}
		return list
	})},
	{name: "an event lost", fails: "Order/Publishers", hooks: onEvents(func(e broker.Event) bool {
		return e.Message == nil || e.Message.Cursor.Seq != 7
	})},
	{name: "an event twice", fails: "Order/Publishers", hooks: onTake(func(list []broker.Event) []broker.Event {
		if len(list) > 1 {
			list[1] = list[0]
		}
		return list
	})},
	{name: "wrong previous seq", fails: "Order/Positions", hooks: onMessages(func(m *msg) { m.Prev = m.Cursor.Seq })},
	{name: "another time in events", fails: "Order/Positions", hooks: onMessages(func(m *msg) { m.Time = m.Time.Add(1) })},
	{name: "no id in events", fails: "Order/Positions", hooks: onMessages(func(m *msg) { m.ID = "" })},
	{name: "no key in events", fails: "Order/Positions", hooks: onMessages(func(m *msg) { m.Key = "" })},
	{name: "another tag in events", fails: "Order/Positions", hooks: onMessages(func(m *msg) { m.Cursor.Tag = 1 })},
	{name: "no tag", fails: "Order/Positions", hooks: onMessages(func(m *msg) { m.Cursor.Tag = 0 })},
	{name: "the caller's message changed", fails: "Order/CallersMessage", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		r, err := b.Publish(c, m)
		m.Cursor = r.Cursor
		return r, err
	})},
	{name: "subscription from the beginning of another", fails: "Order/SubscribeMidway", hooks: func() hooks {
		return hooks{subHead: func(c broker.Cursor) broker.Cursor {
			if c.Seq > 0 {
				c.Seq--
			}
			return c
		}}
	}},
	{name: "one room for all", fails: "Order/RoomsApart", hooks: func() hooks {
		return hooks{subscribe: func(c ctx, b seam, _ string) (broker.Subscription, error) { return b.Subscribe(c, "first") }}
	}},

	// Once.
	{name: "no dedup", fails: "Once/Retry", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		anonymous := *m
		anonymous.ID = ""
		return b.Publish(c, &anonymous)
	})},
	{name: "duplicates not told", fails: "Once/Retry", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		r, err := b.Publish(c, m)
		r.Duplicate = false
		return r, err
	})},
	{name: "a duplicate at the head", fails: "Once/Retry", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		r, err := b.Publish(c, m)
		if r.Duplicate {
			r.Cursor, _ = b.Head(c, m.Room)
		}
		return r, err
	})},
	{name: "dedup by connection", fails: "Once/Retry", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		scoped := *m
		if m.ID != "" {
			scoped.ID = m.From.Client + m.ID
		}
		return b.Publish(c, &scoped)
	})},
	{name: "ids of all publishers", fails: "Once/Scope", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		everyone := *m
		everyone.From.User = ""
		return b.Publish(c, &everyone)
	})},
	{name: "ids of all rooms", fails: "Once/Scope", hooks: func() hooks {
		var rooms firsts[string]
		return hooks{publish: func(c ctx, b seam, m *msg) (broker.Receipt, error) {
			moved := *m
			moved.Room = rooms.get(m.From.User+"\x00"+m.ID, m.Room)
			return b.Publish(c, &moved)
		}}
	}},
	{name: "keys joined without a border", fails: "Once/Scope", hooks: func() hooks {
		var keys firsts[msg]
		return hooks{publish: func(c ctx, b seam, m *msg) (broker.Receipt, error) {
			first := keys.get(m.Room+m.From.User+m.ID, *m)
			return b.Publish(c, &first)
		}}
	}},
	{name: "payload not compared", fails: "Once/Payload", hooks: func() hooks {
		var keys firsts[msg]
		return hooks{publish: func(c ctx, b seam, m *msg) (broker.Receipt, error) {
			first := keys.get(m.ID, *m)
			return b.Publish(c, &first)
		}}
	}},
	{name: "kind not compared", fails: "Once/Payload", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		same := *m
		same.Kind = broker.KindText
		return b.Publish(c, &same)
	})},
	{name: "key not compared", fails: "Once/Payload", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		same := *m
		same.Key = ""
		return b.Publish(c, &same)
	})},
	{name: "no id is an id", fails: "Once/NoID", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		named := *m
		if m.ID == "" {
			named.ID = "none"
		}
		return b.Publish(c, &named)
	})},
	{name: "dedup not atomic", fails: "Once/Concurrent", hooks: func() hooks {
		var mu sync.Mutex // guards seen
		seen := make(map[string]broker.Receipt)
		return hooks{publish: func(c ctx, b seam, m *msg) (broker.Receipt, error) {
			mu.Lock()
			r, ok := seen[m.ID]
			mu.Unlock()
			if ok {
				r.Duplicate = true
				return r, nil
			}
			<-time.After(1) // others look now
			anonymous := *m
			anonymous.ID = ""
			r, err := b.Publish(c, &anonymous)
			mu.Lock()
			seen[m.ID] = r
			mu.Unlock()
			return r, err
		}}
	}},
	{name: "dedup as long as kept", fails: "Once/Trimmed", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		p, err := b.Before(c, m.Room, 0, 100)
		if err != nil {
			return broker.Receipt{}, err
		}
		for _, old := range p.Messages {
			if m.ID != "" && old.ID == m.ID {
				return broker.Receipt{Cursor: old.Cursor, Time: old.Time, Duplicate: true}, nil
			}
		}
		again := *m
		again.From.User += fmt.Sprint(p.Head.Seq)
		return b.Publish(c, &again)
	})},
	{name: "ids remembered too long", fails: "Once/Window", limits: func(l *brokertest.Limits) { l.DedupWindow *= 10 }},
	{name: "ids forgotten too early", fails: "Once/Window", limits: func(l *brokertest.Limits) { l.DedupWindow /= 2 }},

	// Resume.
	{name: "a gap not told", fails: "Resume/Trimmed", hooks: onPage(func(p *broker.Page) {
		if p.Verdict == broker.Gap {
			p.Verdict, p.Gap = broker.Recovered, broker.GapBounds{}
		}
	})},
	{name: "a gap too short below", fails: "Resume/Trimmed", hooks: onPage(func(p *broker.Page) { p.Gap.After++ })},
	{name: "a gap too short above", fails: "Resume/Trimmed", hooks: onPage(func(p *broker.Page) {
		if p.Verdict == broker.Gap {
			p.Gap.Before--
		}
	})},
	{name: "a gap too long", fails: "Resume/Trimmed", hooks: onPage(func(p *broker.Page) {
		if p.Verdict == broker.Gap {
			p.Gap.Before++
		}
	})},
	{name: "a gap miscounted", fails: "Resume/Trimmed", hooks: onPage(func(p *broker.Page) {
		if p.Verdict == broker.Gap {
			p.Gap.Missed++
		}
	})},
	{name: "a gap to the head when all is gone", fails: "Resume/Aged", hooks: onPage(func(p *broker.Page) {
		if p.Verdict == broker.Gap && len(p.Messages) == 0 {
			p.Gap.Before--
		}
	})},
	{name: "a gap at the edge", fails: "Resume/Edge", hooks: onSince(func(c ctx, b seam, room string, after broker.Cursor, limit int) (broker.Page, error) {
		p, err := b.Since(c, room, after, limit)
		if oldest, _ := b.Before(c, room, 0, 1000); len(oldest.Messages) > 0 && after.Seq > 0 && oldest.Messages[0].Prev == after.Seq {
			p.Verdict, p.Gap = broker.Gap, broker.GapBounds{After: after.Seq, Before: after.Seq + 1}
		}
		return p, err
	})},
	{name: "no edge", fails: "Resume/Edge", hooks: onSince(func(c ctx, b seam, room string, after broker.Cursor, limit int) (broker.Page, error) {
		p, err := b.Since(c, room, after, limit)
		if p.Verdict == broker.Gap && p.Gap.Missed == 1 { // one too far
			p.Verdict, p.Gap = broker.Recovered, broker.GapBounds{}
		}
		return p, err
	})},
	{name: "fewer kept than set", fails: "Resume/Trimmed", limits: func(l *brokertest.Limits) {
		if l.Messages > 0 {
			l.Messages--
		}
	}},
	{name: "more kept than set", fails: "Resume/Trimmed", limits: func(l *brokertest.Limits) {
		if l.Messages > 0 {
			l.Messages++
		}
	}},
	{name: "kept for ever", fails: "Resume/Aged", limits: func(l *brokertest.Limits) { l.Age *= 100 }},
	{name: "kept too short", fails: "Resume/Aged", limits: func(l *brokertest.Limits) { l.Age /= 2 }},
	{name: "the head goes with its messages", fails: "Resume/Aged", hooks: func() hooks {
		return hooks{head: func(c ctx, b seam, room string) (broker.Cursor, error) {
			head, err := b.Head(c, room)
			if p, _ := b.Before(c, room, 0, 1); len(p.Messages) == 0 {
				head.Seq, head.Tag = 0, 0
			}
			return head, err
		}}
	}},
	{name: "the tag of a head alone not checked", fails: "Resume/Aged", hooks: onSince(func(c ctx, b seam, room string, after broker.Cursor, limit int) (broker.Page, error) {
		head, err := b.Head(c, room)
		if err != nil {
			return broker.Page{}, err
		}
		if p, _ := b.Before(c, room, 0, 1); len(p.Messages) == 0 && after.Seq == head.Seq && after.Seq > 0 {
			after.Tag = head.Tag
		}
		return b.Since(c, room, after, limit)
	})},
	{name: "an empty room has no epoch of its own", fails: "Resume/Silent", hooks: func() hooks {
		n := 0
		return hooks{head: func(c ctx, b seam, room string) (broker.Cursor, error) {
			head, err := b.Head(c, room)
			if n++; head.Seq == 0 {
				head.Epoch = fmt.Sprint("epoch", n)
			}
			return head, err
		}}
	}},
	{name: "the epoch not checked", fails: "Resume/Foreign", hooks: onSince(func(c ctx, b seam, room string, after broker.Cursor, limit int) (broker.Page, error) {
		head, err := b.Head(c, room)
		if err != nil {
			return broker.Page{}, err
		}
		after.Epoch = head.Epoch
		return b.Since(c, room, after, limit)
	})},
	{name: "the future not checked", fails: "Resume/Foreign", hooks: onSince(func(c ctx, b seam, room string, after broker.Cursor, limit int) (broker.Page, error) {
		p, err := b.Since(c, room, after, limit)
		if p.Verdict == broker.Reset && after.Epoch == p.Head.Epoch && after.Seq > p.Head.Seq {
			p.Verdict = broker.Recovered
		}
		return p, err
	})},
	{name: "the tag not checked", fails: "Resume/Tag", hooks: onSince(func(c ctx, b seam, room string, after broker.Cursor, limit int) (broker.Page, error) {
		if p, _ := b.Before(c, room, after.Seq+1, 1); len(p.Messages) > 0 {
			after.Tag = p.Messages[0].Cursor.Tag
		}
		return b.Since(c, room, after, limit)
	})},
	{name: "no tag is another tag", fails: "Resume/NoTag", hooks: onSince(func(c ctx, b seam, room string, after broker.Cursor, limit int) (broker.Page, error) {
		if after.Seq > 0 && after.Tag == 0 {
			after.Tag = 1
		}
		return b.Since(c, room, after, limit)
	})},
	{name: "a reset with messages", fails: "Resume/Foreign", hooks: onSince(func(c ctx, b seam, room string, after broker.Cursor, limit int) (broker.Page, error) {
		p, err := b.Since(c, room, after, limit)
		if p.Verdict == broker.Reset {
			all, _ := b.Since(c, room, broker.Cursor{}, limit)
			p.Messages = all.Messages
		}
		return p, err
	})},
	{name: "no more than a page", fails: "Resume/ForwardPages", hooks: onPage(func(p *broker.Page) { p.More = false })},
	{name: "always more", fails: "Resume/ForwardPages", hooks: onPage(func(p *broker.Page) { p.More = len(p.Messages) > 0 })},
	{name: "the next page from the head", fails: "Resume/ForwardPages", hooks: onPage(func(p *broker.Page) { p.Next = p.Head })},
	{name: "the newest first", fails: "Resume/Everywhere", hooks: onPage(func(p *broker.Page) { slices.Reverse(p.Messages) })},
	{name: "the cursor's own message again", fails: "Resume/Everywhere", hooks: onSince(func(c ctx, b seam, room string, after broker.Cursor, limit int) (broker.Page, error) {
		p, err := b.Since(c, room, after, limit)
		if own, _ := b.Before(c, room, after.Seq+1, 1); p.Verdict == broker.Recovered && after.Seq > 0 {
			p.Messages = append(own.Messages, p.Messages...)
		}
		return p, err
	})},
	{name: "the limit ignored", fails: "Resume/ForwardPages", hooks: onSince(func(c ctx, b seam, room string, after broker.Cursor, _ int) (broker.Page, error) {
		return b.Since(c, room, after, 1000)
	})},
	{name: "before is up to", fails: "Resume/BackwardPages", hooks: func() hooks {
		return hooks{before: func(c ctx, b seam, room string, before uint64, limit int) (broker.Page, error) {
			if before > 0 {
				before++
			}
			return b.Before(c, room, before, limit)
		}}
	}},
	{name: "before gives the oldest", fails: "Resume/BackwardPages", hooks: func() hooks {
		return hooks{before: func(c ctx, b seam, room string, before uint64, limit int) (broker.Page, error) {
			p, err := b.Before(c, room, before, 1000)
			p.Messages = p.Messages[:min(limit, len(p.Messages))]
			return p, err
		}}
	}},

	// Signals.
	{name: "a signal lost", fails: "Signal/Order", hooks: onEvents(func(e broker.Event) bool { return e.Type != broker.EventSignal })},
	{name: "signals first", fails: "Signal/Order", hooks: onTake(func(list []broker.Event) []broker.Event {
		slices.SortStableFunc(list, func(a, b broker.Event) int { return -int(a.Type) + int(b.Type) })
		return list
	})},
	{name: "signals kept", fails: "Signal/Order", hooks: func() hooks {
		return hooks{signal: func(c ctx, b seam, s *broker.Signal) (int, error) {
			_, err := b.Publish(c, &msg{Room: s.Room, Data: s.Data})
			return 0, err
		}}
	}},
	{name: "a signal without its sender", fails: "Signal/Whole", hooks: func() hooks {
		return hooks{signal: func(c ctx, b seam, s *broker.Signal) (int, error) {
			anonymous := *s
			anonymous.From = broker.Member{}
			return b.Signal(c, &anonymous)
		}}
	}},
	{name: "the first answer is all", fails: "Signal/Reached", hooks: onTake(func(list []broker.Event) []broker.Event {
		for i, e := range list {
			if e.Reached != nil {
				list[i].Reached = func(int) { e.Reached(2) }
			}
		}
		return list
	})},
	{name: "nobody is an error", fails: "Signal/Nobody", hooks: func() hooks {
		return hooks{signal: func(c ctx, b seam, s *broker.Signal) (int, error) {
			n, err := b.Signal(c, s)
			if err == nil && n == 0 && s.To != (broker.Target{}) {
				err = errors.New("nobody")
			}
			return n, err
		}}
	}},
	{name: "no answer is no error", fails: "Signal/Unanswered", hooks: func() hooks {
		return hooks{signal: func(c ctx, b seam, s *broker.Signal) (int, error) {
			n, _ := b.Signal(c, s)
			return n, nil
		}}
	}},

	// Pressure.
	{name: "no bound", fails: "Pressure/Bound", limits: func(l *brokertest.Limits) { l.Waiting *= 200 }},
	{name: "a smaller bound", fails: "Pressure/Bound", limits: func(l *brokertest.Limits) { l.Waiting /= 2 }},
	{name: "kept after a refusal", fails: "Pressure/Bound", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		r, err := b.Publish(c, m)
		if errors.Is(err, broker.ErrBusy) {
			go func() { _, _ = b.Publish(context.Background(), m) }()
		}
		return r, err
	})},
	{name: "refused without its reason", fails: "Pressure/Bound", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		r, err := b.Publish(c, m)
		if errors.Is(err, broker.ErrBusy) {
			err = c.Err()
		}
		return r, err
	})},
	{name: "refused at once", fails: "Pressure/Released", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		short, cancel := context.WithTimeout(c, 1)
		defer cancel()
		return b.Publish(short, m)
	})},
	{name: "presence lost at the bound", fails: "Pressure/Presence", hooks: onEvents(func(e broker.Event) bool {
		return e.Type != broker.EventLeft || e.Members[0].Client == "settle"
	})},

	// Presence.
	{name: "joins not told", fails: "Presence/Nodes", hooks: onEvents(func(e broker.Event) bool { return e.Type != broker.EventJoined })},
	{name: "leaves not told", fails: "Presence/Nodes", hooks: onEvents(func(e broker.Event) bool { return e.Type != broker.EventLeft })},
	{name: "no snapshot", fails: "Presence/Snapshot", hooks: func() hooks {
		return hooks{members: func([]broker.Member) []broker.Member { return nil }}
	}},
	{name: "leaves before joins", fails: "Presence/JoinThenLeave", hooks: onLease(brokenLease{
		update: func(l broker.Lease, c ctx, room string, joined, left []broker.Member) error {
			if err := l.Update(c, room, nil, left); err != nil {
				return err
			}
			return l.Update(c, room, joined, nil)
		},
	})},
	{name: "a lease leaves its members behind", fails: "Presence/LeaseClose", hooks: onLease(brokenLease{
		close: func(broker.Lease, ctx) error { return nil },
	})},
	{name: "a closed lease goes on", fails: "Presence/LeaseClose", hooks: onLease(brokenLease{
		update: func(l broker.Lease, c ctx, room string, joined, left []broker.Member) error {
			_ = l.Update(c, room, joined, left)
			return nil
		},
	})},
	{name: "presence is kept", fails: "Presence/NoHistory", hooks: func() hooks {
		var h hooks
		var inner seam
		h.head = func(c ctx, b seam, room string) (broker.Cursor, error) {
			inner = b
			return b.Head(c, room)
		}
		h.lease = func(_ ctx, l broker.Lease) broker.Lease {
			return brokenLease{Lease: l, update: func(l broker.Lease, c ctx, room string, joined, left []broker.Member) error {
				_, _ = inner.Publish(c, &msg{Room: room})
				return l.Update(c, room, joined, left)
			}}
		}
		return h
	}},

	// Life.
	{name: "a context that has ended ignored", fails: "Life/Cancelled", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		return b.Publish(context.WithoutCancel(c), m)
	})},
	{name: "kept though cancelled", fails: "Life/Cancelled", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		r, err := b.Publish(context.WithoutCancel(c), m)
		if c.Err() != nil {
			err = c.Err()
		}
		return r, err
	})},
	{name: "a closed subscription is silent", fails: "Life/SubscriptionClose", hooks: func() hooks {
		return hooks{takeErr: func(error) error { return nil }}
	}},
	{name: "close does nothing", fails: "Life/Close", hooks: func() hooks {
		return hooks{close: func(seam) error { return nil }}
	}},
	{name: "close does not release", fails: "Life/CloseWhileBusy", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		r, err := b.Publish(c, m)
		if errors.Is(err, broker.ErrClosed) {
			<-c.Done()
			err = c.Err()
		}
		return r, err
	})},
}
