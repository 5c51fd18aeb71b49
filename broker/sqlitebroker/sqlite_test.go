package sqlitebroker

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/broker/brokertest"
)

var ctx = context.Background()

// limited are the options for l.
func limited(l brokertest.Limits) []Option {
	messages, age := defaultMessages, defaultAge
	if l.Messages != 0 {
		messages = l.Messages
	}
	if l.Age != 0 {
		age = l.Age
	}
	opts := []Option{WithRetention(messages, age)}
	if l.DedupWindow != 0 {
		opts = append(opts, WithDedup(l.DedupWindow, 100_000))
	}
	if l.Waiting != 0 {
		opts = append(opts, WithWaiting(l.Waiting, 1<<20))
	}
	return opts
}

func TestBroker(t *testing.T) {
	opened := make(map[broker.Broker][]Option)
	brokertest.Run(t, brokertest.Harness{
		Second:  100 * time.Millisecond,
		Timeout: 20 * time.Second,
		Open: func(t *testing.T, l brokertest.Limits) broker.Broker {
			b, err := Open(ctx, filepath.Join(t.TempDir(), "chat.db"), limited(l)...)
			require.NoError(t, err)
			opened[b] = limited(l)
			return b
		},
		Restart: func(t *testing.T, b broker.Broker) broker.Broker {
			require.NoError(t, b.Close())
			again, err := Open(ctx, b.(*Broker).path, opened[b]...)
			require.NoError(t, err)
			opened[again] = opened[b]
			return again
		},
	})
}

// openTest opens a broker that the test's end closes.
func openTest(t *testing.T, path string, opts ...Option) *Broker {
	t.Helper()
	b, err := Open(ctx, path, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b
}
