// Package outsider is a broker of somebody who has the hub's public packages and nothing else.
package outsider

import (
	"context"
	"sync/atomic"

	"github.com/chathub-go/hub/broker"
)

// Counted counts what is published to another broker.
type Counted struct {
	broker.Broker
	published atomic.Int64
}

// New returns a Counted on the broker in memory.
func New(opts ...broker.MemoryOption) *Counted {
	return &Counted{Broker: broker.NewMemory(opts...)}
}

// Publish implements [broker.Broker].
func (c *Counted) Publish(ctx context.Context, m *broker.Message) (broker.Receipt, error) {
	r, err := c.Broker.Publish(ctx, m)
	if err == nil && !r.Duplicate {
		c.published.Add(1)
	}
	return r, err
}
