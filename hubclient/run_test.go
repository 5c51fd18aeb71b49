package hubclient

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFullJitter: pauses are spread over all of a span that doubles up to 30 s.
func TestFullJitter(t *testing.T) {
	for attempt, span := range []time.Duration{
		500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second,
		30 * time.Second, 30 * time.Second, 12: 30 * time.Second, 1000: 30 * time.Second,
	} {
		if span == 0 {
			continue
		}
		const n = 2000
		var least, most, sum time.Duration = span, 0, 0
		for range n {
			d := fullJitter(attempt)
			least, most, sum = min(least, d), max(most, d), sum+d
		}
		require.GreaterOrEqual(t, least, time.Duration(0))
		require.Less(t, most, span)
		require.Less(t, least, span/50, "attempt %d", attempt) // 2,000 draws miss a fiftieth once in 10^17 runs
		require.Greater(t, most, span-span/50, "attempt %d", attempt)
		require.InEpsilon(t, float64(span)/2, float64(sum)/n, 0.1, "attempt %d", attempt)
	}
}
