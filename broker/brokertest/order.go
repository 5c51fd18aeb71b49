package brokertest

import (
	"fmt"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

var orderCases = []testCase{
	{"Positions", orderPositions},
	{"CallersMessage", orderCallersMessage},
	{"Publishers", orderPublishers},
	{"SubscribeMidway", orderSubscribeMidway},
	{"RoomsApart", orderRoomsApart},
	{"Rooms", orderRooms},
	{"Times", orderTimes},
	{"Exact", orderExact},
}

// What a publish returns, what subscriptions get and what the history has is one message at
// one position.
func orderPositions(e *env) {
	a, b := e.pair(Limits{})
	head := e.head(a, "lobby")
	subs := []broker.Subscription{e.subscribe(a, "lobby"), e.subscribe(b, "lobby")}
	var receipts []broker.Receipt
	for i := range 20 {
		m := text("lobby", "", fmt.Sprint("message ", i))
		if i%2 == 0 {
			m.ID, m.Key = fmt.Sprint("id-", i), fmt.Sprint("ü\x00", i)
		}
		m.Kind = broker.Kind(i%3 + 1)
		receipts = append(receipts, e.publish(a, m))
	}
	check := func(what string, list []*broker.Message) {
		require.Len(e, list, len(receipts), what)
		e.chain(head, list)
		for i, m := range list {
			want := text("lobby", m.ID, fmt.Sprint("message ", i))
			require.Equal(e, receipts[i].Cursor, m.Cursor, "%s: cursor of message %d and its receipt's", what, i)
			require.True(e, receipts[i].Time.Equal(m.Time), "%s: time of message %d: got %v, want %v", what, i, m.Time, receipts[i].Time)
			require.WithinDuration(e, time.Now(), m.Time, time.Hour, "%s: time of message %d", what, i)
			require.False(e, receipts[i].Duplicate, "receipt %d is of a duplicate", i)
			require.Equal(e, want.Data, m.Data, "%s: data of message %d", what, i)
			require.Equal(e, want.From, m.From, "%s: publisher of message %d", what, i)
			require.Equal(e, "lobby", m.Room, "%s: room of message %d", what, i)
			require.Equal(e, broker.Kind(i%3+1), m.Kind, "%s: kind of message %d", what, i)
			if i%2 == 0 {
				require.Equal(e, fmt.Sprint("id-", i), m.ID, "%s: id of message %d", what, i)
				require.Equal(e, fmt.Sprint("ü\x00", i), m.Key, "%s: key of message %d", what, i)
			}
		}
	}
	for _, s := range subs {
		require.Equal(e, head, s.Head(), "head of a subscription")
		check("subscription", e.messages(s, 20))
	}
	for _, b := range []broker.Broker{a, b} {
		check("Since", e.since(b, "lobby", head, 100).Messages)
		check("Before", e.kept(b, "lobby"))
		require.Equal(e, receipts[19].Cursor, e.head(b, "lobby"), "head")
	}
}

// The message stays the caller's.
func orderCallersMessage(e *env) {
	b := e.open(Limits{})
	s := e.subscribe(b, "lobby")
	m := text("lobby", "id", "hello")
	e.publish(b, m)
	require.Equal(e, text("lobby", "id", "hello"), m, "the caller's message after Publish")
	*m = *text("other", "other", "other")
	require.Equal(e, "hello", string(e.messages(s, 1)[0].Data), "data of the event")
	require.Equal(e, "hello", string(e.kept(b, "lobby")[0].Data), "data in the history")

	sig := &broker.Signal{Room: "lobby", Type: "typing", Kind: broker.KindText, Data: []byte("hello")}
	want := *sig
	_, err := b.Signal(e.ctx, sig)
	require.NoError(e, err, "Signal")
	require.Equal(e, want, *sig, "the caller's signal after Signal")
	sig.Type = "other"
	require.Equal(e, "typing", e.until(s, broker.EventSignal).Signal.Type, "type of the event's signal")
}

// All subscriptions of all processes see one order, in which each publisher's messages
// keep theirs.
func orderPublishers(e *env) {
	const publishers, each = 8, 25
	a, b := e.pair(Limits{})
	head := e.head(a, "lobby")
	subs := []broker.Subscription{e.subscribe(a, "lobby"), e.subscribe(b, "lobby"), e.subscribe(b, "lobby")}
	receipts := make([][]broker.Receipt, publishers)
	e.noErrors(together(publishers, func(i int) error {
		to := a
		if i%2 == 1 {
			to = b
		}
		for n := range each {
			m := text("lobby", fmt.Sprint(n), fmt.Sprint(n))
			m.From.User = fmt.Sprint("user-", i)
			r, err := to.Publish(e.ctx, m)
			if err != nil {
				return err
			}
			receipts[i] = append(receipts[i], r)
		}
		return nil
	}))
	want := positions(e.kept(a, "lobby"))
	for i, s := range subs {
		list := e.messages(s, publishers*each)
		e.chain(head, list)
		require.Equal(e, want, positions(list), "order of subscription %d and of the history", i)
		next := make(map[string]int)
		for _, m := range list {
			require.Equal(e, fmt.Sprint(next[m.From.User]), m.ID, "next message of %s", m.From.User)
			next[m.From.User]++
		}
	}
	for i, list := range receipts {
		for n, r := range list {
			require.True(e, slices.Contains(want, r.Cursor), "receipt %d of publisher %d is in the history", n, i)
		}
		require.True(e, slices.IsSortedFunc(list, func(a, b broker.Receipt) int {
			return int(int64(a.Cursor.Seq) - int64(b.Cursor.Seq))
		}), "receipts of publisher %d grow", i)
	}
}

// A subscription that begins while others publish gets exactly what follows its head.
func orderSubscribeMidway(e *env) {
	const total = 150
	a, b := e.pair(Limits{})
	done := make(chan error, 1)
	began := make(chan struct{})
	go func() {
		var err error
		for i := 0; i < total && err == nil; i++ {
			if i == 10 {
				close(began)
			}
			_, err = a.Publish(e.ctx, text("lobby", "", fmt.Sprint(i)))
		}
		done <- err
	}()
	select {
	case <-began:
	case <-e.ctx.Done():
	}
	var subs []broker.Subscription
	for range 10 {
		subs = append(subs, e.subscribe(b, "lobby"))
	}
	require.NoError(e, <-done, "Publish")
	for i, s := range subs {
		want := e.since(b, "lobby", s.Head(), total)
		require.Equal(e, broker.Recovered, want.Verdict, "verdict on the head of subscription %d", i)
		got := e.messages(s, len(want.Messages))
		e.chain(s.Head(), got)
		require.Equal(e, positions(want.Messages), positions(got), "subscription %d and what follows its head", i)
		s.Close()
	}
}

// Nothing of a room is seen in another.
func orderRoomsApart(e *env) {
	b := e.open(Limits{})
	first, second := e.subscribe(b, "first"), e.subscribe(b, "second")
	require.NotEqual(e, first.Head().Epoch, second.Head().Epoch, "epochs of two rooms")
	e.publishN(b, "first", 3)
	_, err := b.Signal(e.ctx, &broker.Signal{Room: "first", Type: "typing"})
	require.NoError(e, err, "Signal")
	require.NoError(e, e.lease(b, "node").Update(e.ctx, "first", []broker.Member{{Client: "c"}}, nil), "Update")
	e.quiet(b, second, "second")
	e.messages(first, 3)
	require.Len(e, e.kept(b, "first"), 3, "messages of the first room")
	require.Len(e, e.kept(b, "second"), 1, "messages of the second room")
}

// Many rooms are as many orders.
func orderRooms(e *env) {
	const rooms, publishers = 64, 4
	a, b := e.pair(Limits{})
	names := make([]string, rooms)
	subs := make([]broker.Subscription, rooms)
	epochs := make(map[string]string)
	for i := range rooms {
		names[i] = fmt.Sprint("room-", i)
		subs[i] = e.subscribe(b, names[i])
		epoch := subs[i].Head().Epoch
		require.Empty(e, epochs[epoch], "another room with the epoch of %s", names[i])
		epochs[epoch] = names[i]
	}
	e.noErrors(together(publishers, func(p int) error {
		to := []broker.Broker{a, b}[p%2]
		for i := range rooms {
			name := names[(i+p*rooms/publishers)%rooms]
			m := text(name, "the same in all rooms", "in "+name)
			m.From.User = fmt.Sprint("user-", p)
			if r, err := to.Publish(e.ctx, m); err != nil || r.Duplicate {
				return fmt.Errorf("publish in %s: %v, duplicate %v", name, err, r.Duplicate)
			}
		}
		return nil
	}))
	for i, s := range subs {
		list := e.messages(s, publishers)
		e.chain(s.Head(), list)
		for _, m := range list {
			require.Equal(e, names[i], m.Room, "room of an event")
			require.Equal(e, "in "+names[i], string(m.Data), "data of an event of %s", names[i])
		}
		e.recovered(a, names[i], s.Head(), positions(list))
	}
}

// In a room's order times do not go back, as long as the clock does not.
func orderTimes(e *env) {
	const publishers, each = 4, 20
	b := e.open(Limits{})
	e.noErrors(together(publishers, func(int) error {
		for range each {
			if _, err := b.Publish(e.ctx, text("lobby", "", "hello")); err != nil {
				return err
			}
			e.pass(1)
		}
		return nil
	}))
	list := e.kept(b, "lobby")
	require.Len(e, list, publishers*each, "messages kept")
	for i, m := range list[1:] {
		require.False(e, m.Time.Before(list[i].Time), "time of message %d: got %v, want at least %v", i+1, m.Time, list[i].Time)
	}
}
