package brokertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

// An ending is a way in which a broker ends, after which one is opened on what it has kept.
type ending struct {
	by      func(Harness) func(*testing.T, broker.Broker) broker.Broker // nil where the harness can't
	orderly bool                                                        // with Close
}

func (end ending) reopen(e *env, b broker.Broker) broker.Broker {
	e.Helper()
	return e.reopened(end.by(e.Harness)(e.T, b))
}

// reopenCases are what a broker promises about its end, whichever end that is.
func reopenCases(end ending) []testCase {
	cases := []struct {
		name string
		run  func(*env, ending)
	}{
		{"Kept", reopenKept},
		{"Heads", reopenHeads},
		{"Once", reopenOnce},
		{"Window", reopenWindow},
		{"Slow", reopenSlow},
		{"Busy", reopenBusy},
		{"Presence", reopenPresence},
	}
	var list []testCase
	for _, c := range cases {
		list = append(list, testCase{c.name, func(e *env) {
			if end.by(e.Harness) == nil {
				e.Skip("the harness has no function for it")
			}
			c.run(e, end)
		}})
	}
	return list
}

// What was acked before is there after, whole, and so are positions: also of rooms that were silent.
func reopenKept(e *env, end ending) {
	b := e.open(Limits{Messages: 10})
	silent := e.head(b, "silent")
	first := e.publish(b, text("lobby", "id", "hello")).Cursor
	all := append([]broker.Cursor{first}, receiptPositions(e.publishN(b, "lobby", 4))...)
	odd := text("lobby", exactStrings[6], "\xff\x00")
	odd.Kind, odd.Key = broker.KindBinary, exactStrings[7]
	all = append(all, e.publish(b, odd).Cursor)
	e.publishN(b, "long", 30)
	long := e.head(b, "long")
	kept := e.kept(b, "lobby")
	for range 3 {
		b = end.reopen(e, b)
		list := e.kept(b, "lobby")
		require.Equal(e, positions(kept), positions(list), "messages after the end")
		for i, m := range list {
			e.same(kept[i], m, fmt.Sprintf("message %d", i))
			require.Equal(e, kept[i].Prev, m.Prev, "seq before message %d", i)
			require.True(e, kept[i].Time.Equal(m.Time), "time of message %d: got %v, want %v", i, m.Time, kept[i].Time)
		}
		require.Equal(e, all[len(all)-1], e.head(b, "lobby"), "head after the end")
		e.recovered(b, "lobby", first, all[1:])
		e.recovered(b, "silent", silent, nil)
		e.recovered(b, "long", long, nil)
		wrong := all[2]
		wrong.Tag++
		e.reset(b, "lobby", wrong)

		s := e.subscribe(b, "lobby")
		r := e.publish(b, text("lobby", "", "after the end"))
		e.chain(all[len(all)-1], e.messages(s, 1))
		all = append(all, r.Cursor)
		kept = e.kept(b, "lobby")
	}
	r := e.publish(b, text("silent", "", "at last"))
	e.recovered(b, "silent", silent, []broker.Cursor{r.Cursor})
}

// A room's head outlives its messages, whether they aged before or after: cursors are good, and the room
// goes on where it was.
func reopenHeads(e *env, end ending) {
	age := 3 * e.Second
	if e.Bubble {
		age = time.Hour
	}
	b := e.open(Limits{Age: age})
	empty := e.head(b, "empty")
	start := e.head(b, "lobby")
	all := receiptPositions(e.publishN(b, "lobby", 3))
	last := all[2]
	check := func(aged bool) {
		e.Helper()
		require.Equal(e, last, e.head(b, "lobby"), "head after the end")
		require.Equal(e, empty, e.head(b, "empty"), "head of an empty room after the end")
		e.recovered(b, "lobby", last, nil)
		e.recovered(b, "empty", empty, nil)
		e.reset(b, "lobby", broker.Cursor{Epoch: last.Epoch, Seq: last.Seq, Tag: last.Tag ^ 1<<63})
		e.reset(b, "lobby", broker.Cursor{Epoch: last.Epoch, Seq: last.Seq + 1, Tag: last.Tag})
		if aged && !e.Coarse {
			require.Empty(e, e.kept(b, "lobby"), "messages past their age")
			require.Equal(e, broker.Gap.String(), e.told(b, "lobby", start, all).String(), "verdict on the first position")
		}
	}
	b = end.reopen(e, b)
	check(false)
	e.pass(age + e.Second)
	check(true)
	for range 2 {
		b = end.reopen(e, b)
		check(true)
	}
	s := e.subscribe(b, "lobby")
	require.Equal(e, last, s.Head(), "head of a subscription")
	r := e.publish(b, text("lobby", "", "after the end"))
	e.chain(last, e.messages(s, 1))
	e.recovered(b, "lobby", last, []broker.Cursor{r.Cursor})
	e.told(b, "lobby", start, append(all, r.Cursor))
}

// A publish that is repeated after the end has the receipt of before, also where its message is no more kept.
func reopenOnce(e *env, end ending) {
	b := e.open(Limits{Messages: 4})
	m, keyed := text("lobby", "id", "hello"), text("lobby", "keyed", "hello")
	keyed.Key = "k"
	first, second := e.publish(b, m), e.publish(b, keyed)
	e.publishN(b, "lobby", 20)
	newest := text("lobby", "newest", "hello")
	third := e.publish(b, newest)
	for range 2 {
		b = end.reopen(e, b)
		e.repeat(b, m, first)
		e.repeat(b, keyed, second)
		e.repeat(b, newest, third)
		for what, other := range map[string]*broker.Message{
			"other data": text("lobby", "id", "hellO"), "no key": text("lobby", "keyed", "hello"),
		} {
			_, err := b.Publish(e.ctx, other)
			require.ErrorIs(e, err, broker.ErrIDReused, "the same id with %s", what)
		}
	}
	require.Equal(e, third.Cursor, e.head(b, "lobby"), "head after repeats")
	bobs := text("lobby", "id", "hello")
	bobs.From.User = "bob"
	require.False(e, e.publish(b, bobs).Duplicate, "another publisher's receipt is of a duplicate")
	require.False(e, e.publish(b, text("other", "id", "hello")).Duplicate, "another room's receipt is of a duplicate")
}

// The end begins no window anew.
func reopenWindow(e *env, end ending) {
	window := 6 * e.Second
	if e.Bubble {
		window = 10 * time.Minute
	}
	b := e.open(Limits{DedupWindow: window})
	m := text("lobby", "id", "hello")
	first := e.publish(b, m)
	e.pass(e.Second)
	b = end.reopen(e, b)
	e.repeat(b, m, first)
	if e.Coarse {
		e.Skip("forgets ids some time after the window")
	}
	e.pass(window - e.Second/2)
	second := e.publish(b, m)
	require.False(e, second.Duplicate, "receipt after the window is of a duplicate")
	e.repeat(b, m, second)
	e.recovered(b, "lobby", first.Cursor, []broker.Cursor{second.Cursor})
}

// Whoever was behind at the end gets the rest from the history after it.
func reopenSlow(e *env, end ending) {
	b := e.open(Limits{})
	s := e.subscribe(b, "lobby")
	all := receiptPositions(e.publishN(b, "lobby", 20))
	last := e.messages(s, 7)[6].Cursor
	b = end.reopen(e, b)
	for err := error(nil); end.orderly && err == nil; { // what reached it before the end
		var got []broker.Event
		got, err = takeN(e.ctx, s, 1)
		for _, ev := range got {
			require.Equal(e, broker.EventMessage, ev.Type, "type of an event")
			last = ev.Message.Cursor
			require.Contains(e, all, last, "messages published, and that of an event")
		}
		if err != nil {
			require.ErrorIs(e, err, broker.ErrClosed, "Take at the end")
		}
	}
	after := slices.Index(all, last) + 1
	require.GreaterOrEqual(e, after, 7, "messages up to the last event")
	e.recovered(b, "lobby", last, all[after:])
	e.recovered(b, "lobby", all[6], all[7:])
}

// A busyPublisher publishes one message after another, each with its id, and notes what was acked.
type busyPublisher struct {
	user  string
	sent  int
	acked []broker.Cursor // of the messages from the first on; zero: not acked
}

func (p *busyPublisher) message(n int) *broker.Message {
	m := text("lobby", fmt.Sprint(n), fmt.Sprint("message ", n))
	m.From.User = p.user
	return m
}

// busy is publishers that go on until their broker ends.
type busy struct {
	mu   sync.Mutex // guards what follows
	list []*busyPublisher
}

// publish publishes for one publisher until an error, with pauses, so that not all do the same at one time.
func (l *busy) publish(ctx context.Context, e *env, b broker.Broker, p *busyPublisher, pause time.Duration, acked func()) error {
	for range 150 { // more than it takes to be under way
		l.mu.Lock()
		n := p.sent
		p.sent++
		p.acked = append(p.acked, broker.Cursor{})
		l.mu.Unlock()
		r, err := b.Publish(ctx, p.message(n))
		if err != nil {
			return err
		}
		l.mu.Lock()
		p.acked[n] = r.Cursor
		l.mu.Unlock()
		acked()
		e.pass(pause)
	}
	return nil
}

// acks returns what has been acked until now.
func (l *busy) acks() [][]broker.Cursor {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all [][]broker.Cursor
	for _, p := range l.list {
		all = append(all, append([]broker.Cursor(nil), p.acked...))
	}
	return all
}

// What is under way at the end was kept or not; what was acked was kept; and a repeat tells which, so that
// all is there once, and each publisher's in order.
func reopenBusy(e *env, end ending) {
	const publishers, rounds = 4, 3
	b := e.open(Limits{Messages: 4000})
	head := e.head(b, "lobby")
	l := &busy{}
	for i := range publishers {
		l.list = append(l.list, &busyPublisher{user: fmt.Sprint("user-", i)})
	}
	for range rounds {
		b = e.endBusy(b, l, end)
	}
	list := e.kept(b, "lobby")
	e.chain(head, list)
	next := make(map[string]int)
	for _, m := range list {
		require.Equal(e, fmt.Sprint(next[m.From.User]), m.ID, "next message of %s", m.From.User)
		next[m.From.User]++
	}
	for _, p := range l.list {
		require.Equal(e, p.sent, next[p.user], "messages of %s", p.user)
	}
}

// endBusy ends b while all of l publish, and repeats after it what they have published.
func (e *env) endBusy(b broker.Broker, l *busy, end ending) broker.Broker {
	e.Helper()
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	underWay := make(chan struct{}, 1000)
	done := e.background(len(l.list), func(i int) error {
		return l.publish(ctx, e, b, l.list[i], time.Duration(i+1), func() { underWay <- struct{}{} })
	})
	for range 10 * len(l.list) {
		select {
		case <-underWay:
		case <-e.ctx.Done():
			require.Fail(e, "publishes don't get under way")
		}
	}
	acked := l.acks()
	next := end.reopen(e, b)
	cancel()
	errs := <-done
	if end.orderly {
		acked = l.acks() // each ack that was given, also while it closed
		for i, err := range errs {
			if err != nil && !isContextError(err) {
				require.ErrorIs(e, err, broker.ErrClosed, "Publish of publisher %d at the end", i)
			}
		}
	}
	for i, p := range l.list {
		for n := range p.sent {
			r := e.publish(next, p.message(n))
			if n < len(acked[i]) && acked[i][n] != (broker.Cursor{}) {
				require.True(e, r.Duplicate, "receipt of a repeat of what was acked, message %d of %s, is of a duplicate", n, p.user)
				require.Equal(e, acked[i][n], r.Cursor, "cursor of a repeat, message %d of %s", n, p.user)
			}
			p.acked[n] = r.Cursor
		}
	}
	return next
}

// Of a process that has ended nobody is there. After a kill the lease may have to run out first.
func reopenPresence(e *env, end ending) {
	b := e.open(Limits{})
	l := e.lease(b, "node-1")
	old, next := member("1", "alice", "Alice"), member("2", "alice", "Alice")
	for _, room := range []string{"lobby", "other"} {
		require.NoError(e, l.Update(e.ctx, room, []broker.Member{old}, nil), "Update")
	}
	b = end.reopen(e, b)
	for _, room := range []string{"lobby", "other"} {
		s := e.subscribe(b, room)
		if end.orderly {
			require.Empty(e, s.Members(), "members of %s after the end", room)
		}
		newFold(s).until(e, s)
	}
	if end.orderly {
		require.ErrorIs(e, l.Update(e.ctx, "lobby", []broker.Member{old}, nil), broker.ErrClosed, "Update of a lease whose broker has closed")
	}
	s := e.subscribe(b, "lobby")
	require.NoError(e, e.lease(b, "node-2").Update(e.ctx, "lobby", []broker.Member{next}, nil), "Update")
	newFold(s).until(e, s, next)
	require.Equal(e, []broker.Member{next}, e.subscribe(b, "lobby").Members(), "members of a new subscription")
	head := e.head(b, "lobby")
	require.Zero(e, head.Seq, "seq of the head of a room that had members only")
}
