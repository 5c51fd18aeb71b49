package brokertest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

var boundsCases = []testCase{
	{"Retention", boundsRetention},
	{"SetRetention", boundsSetRetention},
	{"DedupWindow", boundsDedupWindow},
}

// What hubs ask of a broker that can tell.
type (
	retainer interface {
		Retention(room string) (messages int, age time.Duration)
	}
	retentionSetter interface {
		retainer
		SetRetention(room string, messages int, age time.Duration) error
	}
	deduper interface {
		DedupWindow() time.Duration
	}
)

// bound checks a bound that the broker tells. A coarse one may keep more than it tells, and may have
// rounded the limit up.
func bound[T int | time.Duration](e *env, want, got T, what string) {
	e.Helper()
	if e.Coarse {
		require.GreaterOrEqual(e, got, want, what)
	} else {
		require.Equal(e, want, got, what)
	}
}

// Retention tells what a room keeps, used or not.
func boundsRetention(e *env) {
	b := e.open(Limits{Messages: 7, Age: 5 * e.Second})
	r, ok := b.(retainer)
	if !ok {
		e.Skip("no method Retention")
	}
	e.publishN(b, "lobby", 10)
	for _, room := range []string{"lobby", "never heard of"} {
		messages, age := r.Retention(room)
		bound(e, 7, messages, "messages that a room keeps")
		bound(e, 5*e.Second, age, "age of what a room keeps")
	}
}

// SetRetention is about one room, at once, before and after its first use.
func boundsSetRetention(e *env) {
	b := e.open(Limits{Messages: 8})
	r, ok := b.(retentionSetter)
	if !ok {
		e.Skip("no methods Retention and SetRetention")
	}
	_, age := r.Retention("lobby")
	head := e.head(b, "lobby")
	all := make(map[string][]broker.Cursor)
	for _, messages := range []int{3, 12, 2, 8} {
		require.NoError(e, r.SetRetention("lobby", messages, age), "SetRetention")
		got, gotAge := r.Retention("lobby")
		bound(e, messages, got, "messages that the room keeps")
		require.Equal(e, age, gotAge, "age of what the room keeps")
		got, _ = r.Retention("other")
		bound(e, 8, got, "messages that another room keeps")
		if !e.Coarse {
			require.LessOrEqual(e, len(e.kept(b, "lobby")), messages, "messages kept at once")
		}
		for _, room := range []string{"lobby", "other"} {
			all[room] = append(all[room], receiptPositions(e.publishN(b, room, 12))...)
		}
		e.keeps(b, "lobby", messages, all["lobby"])
		e.keeps(b, "other", 8, all["other"])
		e.told(b, "lobby", head, all["lobby"])
		e.recovered(b, "lobby", all["lobby"][len(all["lobby"])-1], nil)
	}
}

// keeps checks that the room keeps the last n of all.
func (e *env) keeps(b broker.Broker, room string, n int, all []broker.Cursor) {
	e.Helper()
	kept := positions(e.kept(b, room))
	require.GreaterOrEqual(e, len(kept), n, "messages kept of %s", room)
	require.Equal(e, all[len(all)-len(kept):], kept, "messages kept of %s", room)
	if !e.Coarse {
		require.Len(e, kept, n, "messages kept of %s", room)
	}
}

// DedupWindow tells for how long an id is remembered.
func boundsDedupWindow(e *env) {
	b := e.open(Limits{DedupWindow: 3 * e.Second})
	d, ok := b.(deduper)
	if !ok {
		e.Skip("no method DedupWindow")
	}
	bound(e, 3*e.Second, d.DedupWindow(), "dedup window")
}
