// Package brokertest holds a [broker.Broker] to its promises.
//
// A test of an implementation is one call:
//
//	func TestBroker(t *testing.T) {
//		brokertest.Run(t, brokertest.Harness{
//			Open: func(t *testing.T, l brokertest.Limits) broker.Broker {
//				b, err := mybroker.Open(t.TempDir(), mybroker.WithRetention(l.Messages, l.Age))
//				require.NoError(t, err)
//				return b
//			},
//		})
//	}
//
// Nothing else is needed, and nothing that is internal to the hub. The other fields of [Harness]
// say what more the implementation can do, and what it can't do exactly; see there and the example
// of [Run], which is the test of a durable broker.
//
// # Cases
//
// Every case is a subtest of its own, so -run 'TestBroker/Once' runs what is about dedup. The
// groups, and what each holds a broker to:
//
//   - Order: receipts, subscriptions of all processes and the history agree on one order, in which
//     each publisher's messages keep theirs; rooms are apart, also where there are many; what went
//     in comes out, byte for byte.
//   - Once: a message repeated with its ID has the first receipt and no effect, also from another
//     connection or process, at the same time, or after the message is not kept any more; IDs are
//     their publisher's and their room's; another payload is refused; and all this for the window.
//   - Resume: Since continues a cursor or says that it can't, whether the room was silent, is empty,
//     lost its messages to age or number, and wherever the cursor is from: the edge of what is kept,
//     the future, another room or epoch, or a tail that was lost and grew anew. A page is of one
//     moment, while others publish and messages go.
//   - Signal: signals reach all subscriptions, whole and in order, and say whom they reached.
//   - Pressure: what waits for a subscription is bounded, and nothing is lost or kept twice at
//     the bound.
//   - Presence: members are seen in all processes, and go with their lease.
//   - Bounds: the broker's Retention(room), SetRetention(room, messages, age) and DedupWindow() say and
//     do what they should. They are optional: a hub that finds them tells its clients.
//   - Life: contexts that end before, during and after a call; Close, also while all are busy.
//   - Restart and Kill: what was acked is there, once, and so are IDs, heads, and verdicts.
//
// Nothing here takes seqs to be contiguous, one process to be all, or a receipt to come
// before or after its event. No case depends on how fast the broker is, but for the lower
// bounds that [Harness.Second] stands for.
package brokertest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chathub-go/hub/broker"
)

// A Harness tells the suite how to get at the broker under test. Open is all it needs; a case for which
// another function is missing is skipped.
type Harness struct {
	// Open returns a broker that has no rooms yet and is bounded by l. The suite
	// closes it; what else there is to release, Open leaves to t.Cleanup. Where the
	// broker can't have such limits at all, Open calls t.Skip.
	Open func(t *testing.T, l Limits) broker.Broker

	// Peer returns another broker on the engine of b, as a second process would have. Nil
	// where there is one process: its users then share b. The suite closes it. It adds
	// Life/PeerClose, Presence/PeerClose and, with Kill, Presence/Killed, and every case that
	// concerns several processes uses it.
	Peer func(t *testing.T, b broker.Broker) broker.Broker

	// Restart closes b and opens a broker with the same limits on what b has kept. Nil where the broker
	// is not durable. The suite closes what it returns, and b once more. It adds the group Restart.
	Restart func(t *testing.T, b broker.Broker) broker.Broker

	// Kill is Restart without Close: b ends as its process would by kill -9, or as near as can be had,
	// and has no chance to write what it had not yet written; its process's calls under way
	// return any error, or end with their context. What b does from the beginning of Kill on may be lost.
	// The suite closes b in the end all the same. It adds the group Kill, where presence
	// may outlast the process by the broker's lease time, which should be short.
	Kill func(t *testing.T, b broker.Broker) broker.Broker

	// LoseTail is Restart on what b had kept before the last n messages of a room: as where a backup
	// is restored, or a machine loses what it had not yet synced. It adds the cases
	// Resume/LostTail, in which the room then grows anew. Other rooms may lose something too.
	LoseTail func(t *testing.T, b broker.Broker, room string, n int) broker.Broker

	// Bubble says that the broker does no I/O, so that each case runs in a
	// [synctest.Test] bubble, where hours take no time.
	Bubble bool

	// Parallel says that the cases of a group may run at the same time, each with brokers of its own. It
	// has no effect where Bubble is set.
	Parallel bool

	// Coarse says that the engine bounds what it keeps, for how long, and how long it
	// remembers IDs, not exactly: there may be more of it than Limits say, never less. Cases
	// about a bound itself are then skipped; where something is missing it must be told all the same.
	Coarse bool

	// Unbounded says that Publish and Signal never wait for a subscription of this process: one
	// that falls behind gets the rest from the history later, or an [broker.EventGap].
	Unbounded bool

	// Second is the shortest age and dedup window that the broker can have; the default is one
	// second. Cases about time take a few of it, some 80 together, unless Bubble is set. Where the
	// broker may be held up for as long, by a busy disk say, a longer one makes the suite steadier.
	Second time.Duration

	// Timeout bounds each case; the default is 30 s.
	Timeout time.Duration
}

// Limits bound a broker that a case opens. A zero field stands for the broker's default, which is
// taken to be at least 256 messages, a minute, a dedup window of a minute, and 256 events.
type Limits struct {
	Messages    int           // that a room keeps
	Age         time.Duration // of what a room keeps
	DedupWindow time.Duration
	Waiting     int // events that may wait for a subscription
}

// Run runs the suite. It takes a few seconds at most where Bubble is set.
func Run(t *testing.T, h Harness) {
	if h.Second == 0 {
		h.Second = time.Second
	}
	if h.Timeout == 0 {
		h.Timeout = 30 * time.Second
	}
	if h.Bubble {
		h.Timeout = 10_000 * time.Hour // what hangs ends at once all the same
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for _, c := range g.cases {
				t.Run(c.name, func(t *testing.T) { h.run(t, c.run) })
			}
		})
	}
}

// A group is the cases about one thing.
type group struct {
	name  string
	cases []testCase
}

// A testCase is one promise.
type testCase struct {
	name string
	run  func(*env)
}

var groups = []group{
	{"Order", orderCases},
	{"Once", onceCases},
	{"Resume", resumeCases},
	{"Signal", signalCases},
	{"Pressure", pressureCases},
	{"Presence", presenceCases},
	{"Bounds", boundsCases},
	{"Life", lifeCases},
	{"Restart", reopenCases(restart)},
	{"Kill", reopenCases(kill)},
}

var (
	restart = ending{func(h Harness) func(*testing.T, broker.Broker) broker.Broker { return h.Restart }, true}
	kill    = ending{func(h Harness) func(*testing.T, broker.Broker) broker.Broker { return h.Kill }, false}
)

func (h Harness) run(t *testing.T, f func(*env)) {
	if h.Parallel && !h.Bubble {
		t.Parallel()
	}
	body := func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), h.Timeout)
		defer cancel()
		f(&env{T: t, Harness: h, ctx: ctx})
	}
	if h.Bubble {
		synctest.Test(t, body)
	} else {
		body(t)
	}
}
