// Package sim simulates hubs, their broker, clients and the network between them, with everything going wrong that a seed
// can think of, and then holds what each client saw against what there was.
//
//	go test ./internal/sim                                  300 seeds, and what must be noticed is
//	go test ./internal/sim -run TestSeeds -seeds 3000       as .ci/run does
//	go test ./internal/sim -run TestSeeds -seed 42 -v       this one, with its plan
//	go test ./internal/sim -run TestMutations -mutate -v    mistakes in the hub and in hubclient that it must notice
//
// A run takes place in a [testing/synctest] bubble, where minutes take milliseconds. All is the real thing but three parts: the
// network is package memnet (its TryWrite writes short, so the hub's fast path runs), the clock is the bubble's, and the broker is this
// package's.
//
// # What is simulated
//
//   - One or two hubs, each behind a net/http server, on one engine. They are shut down with a drain, or killed: all connections
//     are cut, and what its broker had not committed is lost or kept, message by message. Another process takes the place of each.
//   - The broker: a message is pending until the engine commits it, and acked only then. Commits, events and answers are late, calls
//     fail before or after they had their effect, subscriptions end or lose events and say so, the history is short. In a third of the
//     runs histories are lost: a room begins anew, or a failover loses its last messages and others take their places. The broker itself is held to
//     package brokertest.
//   - Connections that are cut at any byte, either way, or at any time; that stall, are half open, or are abandoned by their client while the
//     hub holds them for alive.
//   - Clients of three kinds. Raw ones speak the JSON door as docs/protocol.md says, some with ordered=1, with several messages under way,
//     in several rooms, leaving and joining, with a second connection of the same session now and then. Others are hubclient.Client, whose programs end
//     and go on with what they stored. The third kind speaks the plain door. All of them read slowly at times, and some are away for long.
//   - The service, which publishes by any hub, repeats what has no receipt, and closes rooms while they are in use.
//
// # What must hold
//
// When the load is over nothing goes wrong any more, and within five minutes everybody has to have everything. Then:
//
//   - Each client's events are the room's messages from where it began, in order, each once, with the right content. A gap
//     says exactly what is missing, has a reason, and counts right; a verdict of gap is about messages that are not kept any more; a reset
//     comes only where the position that the client had is not the room's.
//   - A message that was acked is in the history once, at the position in the ack; what was refused for good or never sent is not there;
//     whatever else is there was published, once. A publisher's messages are in the order in which it sent them.
//   - Who is in a room is who is there, by the hubs and by each client's own events.
//   - Clients get no event that the protocol does not allow where it comes, and hubclient finds nothing to complain of.
//   - A hub that was shut down has no clients, rooms or queued bytes left; no end of a connection is left open, and no goroutine.
//
// TestSeeds also fails where some kind of event never happened in 300 seeds, so that no check holds for want of its case.
// TestBrokenEngines and TestMutations break promises on purpose.
//
// # Replaying
//
// Each client, connection and process draws what it does and what becomes of it from a stream of its own, named by the seed and its
// number, so a seed has the same plan and the same faults each time. Which goroutine runs first is the scheduler's choice: a failure
// that hangs on it may take a few runs to come again (-count 20).
//
// # What is not
//
// TCP's own behaviour, the operating system, TLS, real brokers and their clients, clocks that jump, memory that runs out. Whether others notice nothing when a
// client is back within the resume window is not checked here; hub_test.go does. The soak test has real sockets, internal/compat foreign clients.
package sim
