package brokertest_test

import (
	"testing"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/broker/brokertest"
)

// openMemory opens the in-memory broker within l.
func openMemory(_ *testing.T, l brokertest.Limits) broker.Broker {
	messages, age := 256, time.Hour
	if l.Messages != 0 {
		messages = l.Messages
	}
	if l.Age != 0 {
		age = l.Age
	}
	opts := []broker.MemoryOption{broker.WithRetention(messages, age)}
	if l.DedupWindow != 0 {
		opts = append(opts, broker.WithDedup(l.DedupWindow, 100_000))
	}
	if l.Waiting != 0 {
		opts = append(opts, broker.WithWaiting(l.Waiting, 1<<20))
	}
	return broker.NewMemory(opts...)
}

func TestMemory(t *testing.T) {
	brokertest.Run(t, brokertest.Harness{Open: openMemory, Bubble: true})
}

// As brokers that do I/O are tested.
func TestMemoryInRealTime(t *testing.T) {
	brokertest.Run(t, brokertest.Harness{Open: openMemory, Second: 50 * time.Millisecond, Timeout: 10 * time.Second})
}
