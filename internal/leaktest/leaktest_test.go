package leaktest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tests is a testing.M.
type tests func() int

func (f tests) Run() int { return f() }

func TestRun(t *testing.T) {
	require.Equal(t, 0, Run(tests(func() int { return 0 })))
	require.Equal(t, 2, Run(tests(func() int { return 2 })))
	patience = 10 * time.Millisecond
	stop := make(chan struct{})
	defer close(stop)
	require.Equal(t, 1, Run(tests(func() int {
		go func() { <-stop }()
		return 0
	})))
}
