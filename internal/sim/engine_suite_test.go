package sim

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/broker/brokertest"
)

// The simulation's broker keeps every promise of one, at its best and with delays.
func TestBroker(t *testing.T) {
	for name, f := range map[string]func() faults{
		"At once": func() faults { return faults{} },
		"With delays": func() faults {
			r := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(1, n)) }
			return faults{
				publish: r(1), read: r(2), update: r(3), deliver: r(4),
				commitLag: 3 * time.Millisecond, late: 5 * time.Millisecond,
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			brokertest.Run(t, brokertest.Harness{
				Open: func(_ *testing.T, l brokertest.Limits) broker.Broker {
					o := engineOptions{messages: 256, window: 10 * time.Minute, waiting: 1024, age: l.Age, lease: 5 * time.Second, sparse: true}
					set := func(to *int, n int) {
						if n > 0 {
							*to = n
						}
					}
					set(&o.messages, l.Messages)
					set(&o.waiting, l.Waiting)
					if l.DedupWindow > 0 {
						o.window = l.DedupWindow
					}
					return newEngine(o).open(f())
				},
				Peer:    func(_ *testing.T, b broker.Broker) broker.Broker { return b.(*process).e.open(f()) },
				Restart: func(_ *testing.T, b broker.Broker) broker.Broker { _ = b.Close(); return b.(*process).e.open(f()) },
				Bubble:  true,
			})
		})
	}
}
