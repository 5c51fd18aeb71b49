package outsider

import (
	"testing"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/broker/brokertest"
)

func TestCounted(t *testing.T) {
	brokertest.Run(t, brokertest.Harness{
		Bubble: true,
		Open: func(_ *testing.T, l brokertest.Limits) broker.Broker {
			opts := []broker.MemoryOption{broker.WithRetention(or(l.Messages, 256), or(l.Age, time.Hour))}
			if l.DedupWindow != 0 {
				opts = append(opts, broker.WithDedup(l.DedupWindow, 100_000))
			}
			if l.Waiting != 0 {
				opts = append(opts, broker.WithWaiting(l.Waiting, 1<<20))
			}
			return New(opts...)
		},
	})
}

// or returns the broker's default for a limit that is not set.
func or[T int | time.Duration](limit, def T) T {
	if limit == 0 {
		return def
	}
	return limit
}
