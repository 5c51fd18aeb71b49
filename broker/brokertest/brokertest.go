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
// The other fields of [Harness] say what more the implementation can do, and so add
// tests: Restart those of durability, Peer those of several processes. Every case is a
// subtest of its own, so -run 'TestBroker/Once' runs what is about dedup.
//
// Nothing here takes seqs to be contiguous, one process to be all, or a receipt to come
// before or after its event.
package brokertest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chathub-go/hub/broker"
)

// A Harness tells the suite how to get at the broker under test.
type Harness struct {
	// Open returns a broker that has no rooms yet and is bounded by l. The suite
	// closes it; what else there is to release, Open leaves to t.Cleanup. Where the
	// broker can't have such limits at all, Open calls t.Skip.
	Open func(t *testing.T, l Limits) broker.Broker

	// Peer returns another broker on the engine of b, as a second process would have. Nil
	// where there is one process: its users then share b. The suite closes it.
	Peer func(t *testing.T, b broker.Broker) broker.Broker

	// Restart closes b and opens a broker with the same limits on what b has kept. Nil where the broker
	// is not durable.
	Restart func(t *testing.T, b broker.Broker) broker.Broker

	// Bubble says that the broker does no I/O, so that each case runs in a
	// [synctest.Test] bubble, where hours take no time.
	Bubble bool

	// Coarse says that the engine bounds what it keeps, for how long, and how long it
	// remembers IDs, not exactly: there may be more of it than Limits say, never less. Cases
	// about a bound itself are then skipped; where something is missing it must be told all the same.
	Coarse bool

	// Unbounded says that Publish and Signal never wait for a subscription of this process: one
	// that falls behind gets the rest from the history later, or an [broker.EventGap].
	Unbounded bool

	// Second is the shortest age and dedup window that the broker can have; the default is one
	// second. Cases about time take a few of it, unless Bubble is set.
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
	for _, group := range [][]testCase{orderCases, onceCases, resumeCases, signalCases, pressureCases, presenceCases, lifeCases} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) { h.run(t, c.run) })
		}
	}
}

// A testCase is one promise.
type testCase struct {
	name string
	run  func(*env)
}

func (h Harness) run(t *testing.T, f func(*env)) {
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
