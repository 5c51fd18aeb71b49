package brokertest_test

import (
	"bytes"
	"context"
	"hash/fnv"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/broker/brokertest"
)

// moreBreakages are breakages of the in-memory broker, each about one case in particular.
var moreBreakages = []breakage{
	// Order.
	{name: "rooms by a hash of their name", fails: "Order/Rooms", hooks: func() hooks {
		var rooms firsts[string]
		return hooks{publish: func(c ctx, b seam, m *msg) (broker.Receipt, error) {
			h := fnv.New32a()
			_, _ = h.Write([]byte(m.Room))
			moved := *m
			moved.Room = rooms.get(string(rune(h.Sum32()%61)), m.Room)
			return b.Publish(c, &moved)
		}}
	}},
	{name: "data ends at a zero byte", fails: "Order/Exact", hooks: onMessages(func(m *msg) {
		m.Data, _, _ = bytes.Cut(m.Data, []byte{0})
	})},
	{name: "rooms in lower case", fails: "Order/Exact", hooks: func() hooks {
		return hooks{
			publish: func(c ctx, b seam, m *msg) (broker.Receipt, error) {
				folded := *m
				folded.Room = strings.ToLower(m.Room)
				return b.Publish(c, &folded)
			},
			head: func(c ctx, b seam, room string) (broker.Cursor, error) { return b.Head(c, strings.ToLower(room)) },
		}
	}},
	{name: "an id cut at 40 bytes", fails: "Order/Exact", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		short := *m
		short.ID = m.ID[:min(40, len(m.ID))]
		return b.Publish(c, &short)
	})},
	{name: "less than 64 KiB", fails: "Order/Exact", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		if len(m.Data) >= 1<<16 {
			return broker.Receipt{}, broker.ErrTooLarge
		}
		return b.Publish(c, m)
	})},

	// Once.
	{name: "one of a race speaks for all", fails: "Once/Race", hooks: func() hooks {
		var mu sync.Mutex // guards flights
		flights := make(map[string]chan broker.Receipt)
		return hooks{publish: func(c ctx, b seam, m *msg) (broker.Receipt, error) {
			if m.ID == "" {
				return b.Publish(c, m)
			}
			key := m.Room + "\x00" + m.From.User + "\x00" + m.ID
			mu.Lock()
			flight, joins := flights[key]
			if !joins {
				flight = make(chan broker.Receipt, 1)
				flights[key] = flight
			}
			mu.Unlock()
			if joins {
				if r, ok := <-flight; ok {
					flight <- r
					r.Duplicate = true
					return r, nil
				}
				return b.Publish(c, m)
			}
			<-time.After(1) // others join now
			r, err := b.Publish(c, m)
			if err == nil {
				flight <- r
			} else {
				close(flight)
			}
			mu.Lock()
			defer mu.Unlock()
			delete(flights, key)
			return r, err
		}}
	}},
	agedIDs(),

	// Resume.
	{name: "a verdict from before the page", fails: "Resume/Trimming", hooks: onSince(func(c ctx, b seam, room string, after broker.Cursor, limit int) (broker.Page, error) {
		p, err := b.Since(c, room, after, limit)
		if err != nil || p.Verdict != broker.Recovered || len(p.Messages) == 0 {
			return p, err
		}
		<-time.After(2) // messages go now
		later, err := b.Since(c, room, after, limit)
		later.Verdict, later.Gap = p.Verdict, p.Gap
		return later, err
	})},
	{name: "back by offset", fails: "Resume/BackwardTrimming", hooks: func() hooks {
		return hooks{before: func(c ctx, b seam, room string, before uint64, limit int) (broker.Page, error) {
			all, err := b.Before(c, room, 0, 1000)
			if err != nil || before == 0 || len(all.Messages) == 0 {
				return b.Before(c, room, before, limit)
			}
			skip := 0
			for _, m := range all.Messages {
				if m.Cursor.Seq >= before {
					skip++
				}
			}
			<-time.After(1) // others come now
			p, err := b.Before(c, room, 0, skip+limit)
			p.Messages = p.Messages[:max(0, len(p.Messages)-skip)]
			if p.Next = p.Head; len(p.Messages) > 0 {
				p.Next = p.Messages[len(p.Messages)-1].Cursor
			}
			return p, err
		}}
	}},

	// Signals.
	{name: "a signal of 64 KiB refused", fails: "Signal/Exact", hooks: func() hooks {
		return hooks{signal: func(c ctx, b seam, s *broker.Signal) (int, error) {
			if len(s.Data) >= 1<<16 {
				return 0, broker.ErrTooLarge
			}
			return b.Signal(c, s)
		}}
	}},
	{name: "signals lost when there are many", fails: "Signal/Concurrent", hooks: func() hooks {
		n := 0
		return hooks{signal: func(c ctx, b seam, s *broker.Signal) (int, error) {
			if n++; n == 60 {
				return 0, nil
			}
			return b.Signal(c, s)
		}}
	}},

	{name: "the answer of who closed is waited for", fails: "Signal/ClosedUnanswered", hooks: closedCounts},

	// Pressure.
	{name: "who closed is waited for", fails: "Pressure/Closed", hooks: closedCounts},
	{name: "who closed holds the others", fails: "Pressure/Subscriptions", hooks: closedCounts},
	{name: "lost when far behind", fails: "Pressure/Behind", hooks: onEvents(func(e broker.Event) bool {
		return e.Message == nil || e.Message.Cursor.Seq != 10*16
	})},

	// Bounds.
	{name: "another number of messages told", fails: "Bounds/Retention", wrap: func(m *broker.Memory) broker.Broker {
		return told{Memory: m, messages: 1}
	}},
	{name: "another age told", fails: "Bounds/Retention", wrap: func(m *broker.Memory) broker.Broker {
		return told{Memory: m, age: time.Second}
	}},
	{name: "another window told", fails: "Bounds/DedupWindow", wrap: func(m *broker.Memory) broker.Broker {
		return told{Memory: m, window: time.Second}
	}},
	{name: "one room's retention is all rooms'", fails: "Bounds/SetRetention", wrap: func(m *broker.Memory) broker.Broker {
		return told{Memory: m, also: []string{"other"}}
	}},
	{name: "a room's retention told but not kept to", fails: "Bounds/SetRetention", wrap: func(m *broker.Memory) broker.Broker {
		return &forgetful{Memory: m}
	}},

	// Life.
	{name: "more than was asked for", fails: "Life/Ready", hooks: func() hooks { return hooks{takeMore: 1} }},
	{name: "a cut publish forgets its id", fails: "Life/CutPublish", hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		if c.Err() == nil && m.ID != "" {
			select {
			case <-c.Done():
				anonymous := *m
				anonymous.ID = ""
				_, _ = b.Publish(context.WithoutCancel(c), &anonymous)
			case <-time.After(time.Millisecond):
			}
		}
		return b.Publish(c, m)
	})},
	{name: "a cut subscribe leaves a subscription", fails: "Life/CutSubscribe", hooks: func() hooks {
		return hooks{subscribe: func(c ctx, b seam, room string) (broker.Subscription, error) {
			if c.Err() == nil {
				select {
				case <-c.Done():
					_, _ = b.Subscribe(context.WithoutCancel(c), room)
				case <-time.After(time.Millisecond):
				}
			}
			return b.Subscribe(c, room)
		}}
	}},
	{name: "a subscription ends with its context", fails: "Life/OutlivesContext", hooks: func() hooks {
		return hooks{subscribe: func(c ctx, b seam, room string) (broker.Subscription, error) {
			s, err := b.Subscribe(c, room)
			if err == nil {
				context.AfterFunc(c, s.Close)
			}
			return s, err
		}}
	}},
	{name: "a lease ends with its context", fails: "Life/OutlivesContext", hooks: func() hooks {
		return hooks{lease: func(c ctx, l broker.Lease) broker.Lease {
			context.AfterFunc(c, func() { _ = l.Close(context.WithoutCancel(c)) })
			return l
		}}
	}},
}

// agedIDs forgets ids with their messages, but those that were trimmed.
func agedIDs() breakage {
	var age time.Duration
	return breakage{
		name: "dedup as long as of age", fails: "Once/Aged",
		limits: func(l *brokertest.Limits) { age = l.Age },
		hooks: func() hooks {
			var first firsts[time.Time]
			return hooks{publish: func(c ctx, b seam, m *msg) (broker.Receipt, error) {
				began := first.get(m.Room+"\x00"+m.From.User+"\x00"+m.ID, time.Now())
				aged := *m
				if age > 0 && time.Since(began) >= age {
					aged.ID = ""
				}
				return b.Publish(c, &aged)
			}}
		},
	}
}

// told tells other bounds than those of its broker.
type told struct {
	*broker.Memory
	messages    int
	age, window time.Duration
	also        []string // rooms that SetRetention is about
}

func (b told) Retention(room string) (int, time.Duration) {
	messages, age := b.Memory.Retention(room)
	return messages + b.messages, age + b.age
}

func (b told) DedupWindow() time.Duration { return b.Memory.DedupWindow() + b.window }

func (b told) SetRetention(room string, messages int, age time.Duration) error {
	for _, name := range b.also {
		if err := b.Memory.SetRetention(name, messages, age); err != nil {
			return err
		}
	}
	return b.Memory.SetRetention(room, messages, age)
}

// forgetful tells what was set, and keeps to what was set first.
type forgetful struct {
	*broker.Memory
	messages int
}

func (b *forgetful) SetRetention(room string, messages int, age time.Duration) error {
	if b.messages != 0 {
		b.messages = messages
		return nil
	}
	b.messages = messages
	return b.Memory.SetRetention(room, messages, age)
}

func (b *forgetful) Retention(room string) (int, time.Duration) {
	messages, age := b.Memory.Retention(room)
	if room == "lobby" && b.messages != 0 {
		messages = b.messages
	}
	return messages, age
}

// eachRoom changes each room of a disk.
func eachRoom(f func(d *disk, name string, r *diskRoom)) func(*disk) {
	return func(d *disk) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for name := range d.rooms {
			f(d, name, d.room(name))
		}
	}
}

// forgetIDs forgets those that which says.
func forgetIDs(which func(d *disk, k diskKey, rec diskReceipt) bool) func(*disk) {
	return func(d *disk) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.forget(func(k diskKey, rec diskReceipt) bool { return which(d, k, rec) })
	}
}

// diskBreakages are breakages of what outlives a process, and of several of them.
var diskBreakages = []breakage{
	{name: "times that go back", fails: "Order/Times", disk: true, faults: func(d *disk) {
		d.clock = func(seq uint64, now time.Time) time.Time { return now.Add(-time.Duration(seq)) }
	}},
	{name: "tags by seq", fails: "Resume/LostTail", disk: true, faults: func(d *disk) {
		d.dense, d.tag = true, func(seq, _ uint64) uint64 { return 1 + seq }
	}},
	{name: "ids of what was lost", fails: "Resume/LostTail", disk: true, faults: func(d *disk) { d.stale = true }},
	{name: "the tag at the edge not checked", fails: "Resume/LostTailTrimmed", disk: true, faults: func(d *disk) { d.edge, d.dense = true, true }},
	{name: "the tag of an aged head not checked", fails: "Resume/LostTailAged", disk: true, faults: func(d *disk) { d.edge, d.dense = true, true }},

	// Several processes.
	{name: "a closed process is waited for", fails: "Life/PeerClose", disk: true, faults: func(d *disk) { d.deaf = true }},
	{name: "one process closes for all", fails: "Life/PeerClose", disk: true, faults: func(d *disk) { d.alone = true }},
	{name: "a closed process's members stay", fails: "Presence/PeerClose", disk: true, faults: func(d *disk) { d.ghosts = true }},
	{name: "a killed process's members stay", fails: "Presence/Killed", disk: true, faults: func(d *disk) { d.immortal = true }},

	// After the end.
	{name: "all lost", fails: "Restart/Kept", disk: true, ended: func(d *disk) {
		d.mu.Lock()
		defer d.mu.Unlock()
		clear(d.rooms)
		clear(d.seen)
	}},
	{name: "the newest lost", fails: "Restart/Kept", disk: true, ended: eachRoom(func(_ *disk, _ string, r *diskRoom) { r.lose(1) })},
	{name: "times to the second", fails: "Restart/Kept", disk: true, ended: eachRoom(func(_ *disk, _ string, r *diskRoom) {
		r.change(func(m *msg) { m.Time = m.Time.Add(-time.Nanosecond) })
	})},
	{name: "data is UTF-8", fails: "Restart/Kept", disk: true, ended: eachRoom(func(_ *disk, _ string, r *diskRoom) {
		r.change(func(m *msg) { m.Data = bytes.ToValidUTF8(m.Data, []byte("?")) })
	})},
	{name: "silent rooms begin anew", fails: "Restart/Kept", disk: true, ended: eachRoom(func(d *disk, name string, r *diskRoom) {
		if r.head.Seq == 0 {
			delete(d.rooms, name)
		}
	})},
	{name: "acked before it is written", fails: "Kill/Kept", disk: true, killed: eachRoom(func(_ *disk, _ string, r *diskRoom) { r.lose(1) })},
	{name: "rooms whose messages have gone begin anew", fails: "Restart/Heads", disk: true, ended: eachRoom(func(d *disk, name string, r *diskRoom) {
		if r.head.Seq > 0 && len(r.kept) == 0 {
			delete(d.rooms, name)
		}
	})},
	{name: "a head without messages has no tag", fails: "Kill/Heads", disk: true, ended: eachRoom(func(_ *disk, _ string, r *diskRoom) {
		if len(r.kept) == 0 {
			r.head.Tag, r.edge.Tag = 0, 0
		}
	})},
	{name: "ids forgotten", fails: "Restart/Once", disk: true, ended: forgetIDs(func(*disk, diskKey, diskReceipt) bool { return true })},
	{name: "ids as long as kept", fails: "Kill/Once", disk: true, ended: forgetIDs(func(d *disk, k diskKey, rec diskReceipt) bool {
		return rec.Cursor.Seq <= d.room(k.room).edge.Seq
	})},
	{name: "the window begins anew", fails: "Restart/Window", disk: true, ended: windowAnew},
	{name: "the window begins anew in a kill", fails: "Kill/Window", disk: true, killed: windowAnew},
	{name: "what waits for someone is lost", fails: "Restart/Slow", disk: true, faults: func(d *disk) { d.lazy = true }},
	{name: "what waits for someone is lost in a kill", fails: "Kill/Slow", disk: true, faults: func(d *disk) { d.lazy = true }},
	{name: "acked while closing", fails: "Restart/Busy", disk: true, hooks: ackedWhileClosing},
	{name: "killed between message and id", fails: "Kill/Busy", disk: true, hooks: onPublish(func(c ctx, b seam, m *msg) (broker.Receipt, error) {
		r, err := b.Publish(c, m)
		if err != nil || r.Duplicate {
			return r, err
		}
		<-time.After(3)
		d := b.(*diskBroker).d
		d.mu.Lock()
		defer d.mu.Unlock()
		if b.(*diskBroker).ended != errKilled {
			return r, nil
		}
		d.forget(func(k diskKey, _ diskReceipt) bool { return k == diskKey{m.Room, m.From.User, m.ID} })
		return broker.Receipt{}, errKilled
	})},
	{name: "members outlive a restart", fails: "Restart/Presence", disk: true, faults: func(d *disk) { d.ghosts = true }},
	{name: "members outlive a kill", fails: "Kill/Presence", disk: true, faults: func(d *disk) { d.immortal = true }},
}

// closedCounts does not close subscriptions.
func closedCounts() hooks { return hooks{subClose: func(broker.Subscription) {}} }

// windowAnew remembers each id as if it had been used just now.
func windowAnew(d *disk) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, rec := range d.seen {
		rec.at = time.Now()
		d.seen[k] = rec
	}
}

// ackedWhileClosing acks what is under way when Close comes, and keeps nothing of it.
func ackedWhileClosing() hooks {
	closing := make(chan struct{})
	closeOnce := sync.OnceFunc(func() { close(closing) })
	return hooks{
		publish: func(c ctx, b seam, m *msg) (broker.Receipt, error) {
			select {
			case <-closing:
				return b.Publish(c, m)
			default:
			}
			select {
			case <-closing:
				return broker.Receipt{Cursor: broker.Cursor{Epoch: "none", Seq: 1, Tag: 1}}, nil
			case <-time.After(3):
			}
			return b.Publish(c, m)
		},
		close: func(b seam) error {
			closeOnce()
			runtime.Gosched()
			return b.Close()
		},
	}
}

// change changes copies of what is kept.
func (r *diskRoom) change(f func(*msg)) {
	for i, m := range r.kept {
		changed := *m
		f(&changed)
		r.kept[i] = &changed
	}
}
