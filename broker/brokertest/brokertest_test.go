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
	brokertest.Run(t, brokertest.Harness{
		Open: openMemory, Second: 100 * time.Millisecond, Timeout: 10 * time.Second, Parallel: true,
	})
}

// diskHarness gets at brokers on a disk, with all that a broker can have.
func diskHarness() brokertest.Harness {
	return brokertest.Harness{
		Open: openDisk,
		Peer: func(_ *testing.T, b broker.Broker) broker.Broker { return b.(*diskBroker).another() },
		Restart: func(_ *testing.T, b broker.Broker) broker.Broker {
			_ = b.Close()
			return b.(*diskBroker).another()
		},
		Kill: func(_ *testing.T, b broker.Broker) broker.Broker {
			b.(*diskBroker).kill()
			return b.(*diskBroker).another()
		},
		LoseTail: func(_ *testing.T, b broker.Broker, room string, n int) broker.Broker {
			_ = b.Close()
			b.(*diskBroker).d.lose(room, n)
			return b.(*diskBroker).another()
		},
		Unbounded: true,
	}
}

func TestDisk(t *testing.T) {
	h := diskHarness()
	h.Bubble = true
	brokertest.Run(t, h)
}

func TestDiskInRealTime(t *testing.T) {
	h := diskHarness()
	h.Second, h.Timeout, h.Parallel = 100*time.Millisecond, 10*time.Second, true
	brokertest.Run(t, h)
}

// What is told to be coarse is asked for no more than it has to be.
func TestCoarse(t *testing.T) {
	h := diskHarness()
	h.Bubble, h.Coarse = true, true
	h.Open = func(t *testing.T, l brokertest.Limits) broker.Broker {
		l.Messages, l.Age, l.DedupWindow = 3*l.Messages/2, 3*l.Age/2, 3*l.DedupWindow/2
		return openDisk(t, l)
	}
	brokertest.Run(t, h)
}
