package compat

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/internal/memnet"
)

// A client that reads one byte a second and answers pings as it comes to them: it gets all that fits its
// bounds, hours later.
func TestWireOneByteASecond(t *testing.T) {
	for path := range paths {
		timeout := 10 * time.Second // for one byte
		if paths[path].tls {
			timeout = 5 * time.Hour // for one record
		}
		t.Run(path, func(t *testing.T) { oneByteASecond(t, path, timeout) })
	}
}

func oneByteASecond(t *testing.T, path string, timeout time.Duration) {
	inBubbleBy(t, path, []memnet.Option{memnet.WithBuffer(40)}, func(t *testing.T, b *bubble) {
		slow, c := b.dial("", "")
		healthy, _ := b.dial("", "")
		slow.chunk, slow.every = 1, time.Second
		start := time.Now()
		all := distinct(16, 1000)
		b.publish(all...)
		healthy.expect(t, all...)
		require.Zero(t, time.Since(start), "others don't wait")
		go func() { // it answers pings
			for {
				if _, err := healthy.message(); err != nil {
					return
				}
			}
		}()

		slow.expect(t, all...)
		require.Greater(t, time.Since(start), 4*time.Hour)
		slow.chunk = 0
		c.Close(4000, "")
		slow.expectClose(t, 4000)
		require.NoError(t, healthy.Close())
	}, hub.WithQueue(16, 17<<10), hub.WithWriteTimeout(timeout))
}
