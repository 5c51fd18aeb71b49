package brokertest

import (
	"errors"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

var onceCases = []testCase{
	{"Retry", onceRetry},
	{"Scope", onceScope},
	{"Payload", oncePayload},
	{"NoID", onceNoID},
	{"Concurrent", onceConcurrent},
	{"Race", onceRace},
	{"Trimmed", onceTrimmed},
	{"Aged", onceAged},
	{"Window", onceWindow},
}

// repeat publishes m again and checks that it gets the first receipt.
func (e *env) repeat(b broker.Broker, m *broker.Message, first broker.Receipt) {
	e.Helper()
	again := e.publish(b, m)
	require.True(e, again.Duplicate, "receipt of a repeat is of a duplicate")
	require.Equal(e, first.Cursor, again.Cursor, "cursor of a repeat and of the first")
	require.True(e, first.Time.Equal(again.Time), "time of a repeat: got %v, want %v", again.Time, first.Time)
}

// A repeat has the receipt of the first and no effect, also from another process and
// from another connection of the user.
func onceRetry(e *env) {
	a, b := e.pair(Limits{})
	s := e.subscribe(a, "lobby")
	m := text("lobby", "id", "hello")
	first := e.publish(a, m)
	require.False(e, first.Duplicate, "the first receipt is of a duplicate")
	e.repeat(a, m, first)
	e.publishN(b, "lobby", 2)
	e.repeat(b, m, first)
	m.From.Client, m.From.Name = "client-2", "Alice (2)"
	e.repeat(a, m, first)
	require.Len(e, e.kept(b, "lobby"), 3, "messages kept")
	require.Equal(e, first.Cursor, e.messages(s, 3)[0].Cursor, "cursor of the first event")
	e.quiet(a, s, "lobby")
}

// The same id of another publisher or in another room is another message.
func onceScope(e *env) {
	b := e.open(Limits{})
	type key struct{ room, user, id string }
	keys := []key{
		{"lobby", "alice", "id"}, {"lobby", "bob", "id"}, {"lobby", "alice", "id2"}, {"other", "alice", "id"},
		{"lobby", "", "id"},
		// The same when written one after the other.
		{"ab", "c", "d"}, {"a", "bc", "d"}, {"a", "b", "cd"}, {"a", "b:c", "d"}, {"a:b", "c", "d"}, {"a", "b", "c:d"},
	}
	receipts := make(map[key]broker.Receipt)
	for range 2 {
		for _, k := range keys {
			m := text(k.room, k.id, "hello")
			m.From.User = k.user
			if first, ok := receipts[k]; ok {
				e.repeat(b, m, first)
				continue
			}
			receipts[k] = e.publish(b, m)
			require.False(e, receipts[k].Duplicate, "%v is taken for another", k)
		}
	}
	require.Len(e, e.kept(b, "lobby"), 4, "messages kept")
}

// The same key with another payload is an error, and changes nothing.
func oncePayload(e *env) {
	b := e.open(Limits{})
	s := e.subscribe(b, "lobby")
	first := e.publish(b, text("lobby", "id", "hello"))
	keyed := text("lobby", "keyed", "hello")
	keyed.Key = "k"
	second := e.publish(b, keyed)
	other := map[string]*broker.Message{
		"other data": text("lobby", "id", "hellO"),
		"less data":  text("lobby", "id", "hell"),
		"no data":    text("lobby", "id", ""),
		"other kind": text("lobby", "id", "hello"),
		"a key":      text("lobby", "id", "hello"),
		"other key":  text("lobby", "keyed", "hello"),
		"no key":     text("lobby", "keyed", "hello"),
	}
	other["other kind"].Kind = broker.KindBinary
	other["a key"].Key, other["other key"].Key = "k", "l"
	for what, m := range other {
		_, err := b.Publish(e.ctx, m)
		require.ErrorIs(e, err, broker.ErrIDReused, "the same id with %s", what)
	}
	e.repeat(b, text("lobby", "id", "hello"), first)
	e.repeat(b, keyed, second)
	e.messages(s, 2)
	e.quiet(b, s, "lobby")
}

// Without an id nothing is a duplicate.
func onceNoID(e *env) {
	b := e.open(Limits{})
	first, second := e.publish(b, text("lobby", "", "hello")), e.publish(b, text("lobby", "", "hello"))
	require.False(e, second.Duplicate, "receipt is of a duplicate")
	require.NotEqual(e, first.Cursor, second.Cursor, "cursors of two messages")
	require.Len(e, e.kept(b, "lobby"), 2, "messages kept")
}

// Of many that publish the same at once, one does.
func onceConcurrent(e *env) {
	a, b := e.pair(Limits{})
	s := e.subscribe(b, "lobby")
	const rounds, publishers = 10, 8
	for round := range rounds {
		receipts := make([]broker.Receipt, publishers)
		e.noErrors(together(publishers, func(i int) (err error) {
			to := a
			if i%2 == 1 {
				to = b
			}
			receipts[i], err = to.Publish(e.ctx, text("lobby", fmt.Sprint(round), "hello"))
			return err
		}))
		firsts := 0
		for i, r := range receipts {
			require.Equal(e, receipts[0].Cursor, r.Cursor, "cursor of publisher %d", i)
			if !r.Duplicate {
				firsts++
			}
		}
		require.Equal(e, 1, firsts, "receipts that are not of a duplicate")
	}
	e.messages(s, rounds)
	e.quiet(b, s, "lobby")
}

// A message that is not kept any more is a duplicate all the same.
func onceTrimmed(e *env) {
	b := e.open(Limits{Messages: 4})
	m := text("lobby", "id", "hello")
	first := e.publish(b, m)
	e.publishN(b, "lobby", 20)
	e.repeat(b, m, first)
}

// A key can be used again after the window, and not before.
func onceWindow(e *env) {
	window := 2 * e.Second
	if e.Bubble {
		window = 10 * time.Minute
	}
	b := e.open(Limits{DedupWindow: window})
	m := text("lobby", "id", "hello")
	first := e.publish(b, m)
	if e.Bubble {
		e.pass(window - time.Second)
	}
	e.repeat(b, m, first) // does not begin the window anew
	if e.Coarse {
		e.Skip("forgets ids some time after the window")
	}
	e.pass(window + e.Second)
	for range 2 {
		second := e.publish(b, m)
		require.False(e, second.Duplicate, "receipt after the window is of a duplicate")
		require.NotEqual(e, first.Cursor, second.Cursor, "cursor after the window")
		e.repeat(b, m, second)
		first = second
		e.pass(window + e.Second)
	}
	m.Data = []byte("another payload")
	require.False(e, e.publish(b, m).Duplicate, "receipt of another payload after the window is of a duplicate")
}

// Of many that publish different payloads under one id at once, one payload is kept.
func onceRace(e *env) {
	a, b := e.pair(Limits{})
	s := e.subscribe(b, "lobby")
	const rounds, publishers = 10, 9
	for round := range rounds {
		receipts, refused := make([]broker.Receipt, publishers), make([]bool, publishers)
		payload := func(i int) string { return fmt.Sprint("payload ", i%3) }
		e.noErrors(together(publishers, func(i int) (err error) {
			to := []broker.Broker{a, b}[i%2]
			receipts[i], err = to.Publish(e.ctx, text("lobby", fmt.Sprint(round), payload(i)))
			if errors.Is(err, broker.ErrIDReused) {
				refused[i], err = true, nil
			}
			return err
		}))
		won := e.messages(s, 1)[0]
		firsts := 0
		for i, r := range receipts {
			require.Equal(e, payload(i) != string(won.Data), refused[i], "publisher %d of %q was refused, kept is %q", i, payload(i), won.Data)
			if refused[i] {
				continue
			}
			require.Equal(e, won.Cursor, r.Cursor, "cursor of publisher %d", i)
			if !r.Duplicate {
				firsts++
			}
		}
		require.Equal(e, 1, firsts, "receipts that are not of a duplicate")
	}
	e.quiet(b, s, "lobby")
}

// Nor does a message's age matter.
func onceAged(e *env) {
	age := 2 * e.Second
	if e.Bubble {
		age = time.Minute
	}
	b := e.open(Limits{Age: age, DedupWindow: 100 * age})
	m := text("lobby", "id", "hello")
	first := e.publish(b, m)
	e.pass(age + e.Second)
	if !e.Coarse {
		require.Empty(e, e.kept(b, "lobby"), "messages past their age")
	}
	e.repeat(b, m, first)
	e.recovered(b, "lobby", first.Cursor, nil)
}
