package sqlitebroker

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestMain lets the test binary be a process that is killed, and fails the package when a goroutine is left.
func TestMain(m *testing.M) {
	if path := os.Getenv(victimVariable); path != "" {
		victim(path)
	}
	before := runtime.NumGoroutine()
	code := m.Run()
	if code == 0 && leaked(before) {
		code = 1
	}
	os.Exit(code)
}

// leaked tells whether goroutines are left that were not there before. The runtime may
// need a moment to end those that have returned.
func leaked(before int) bool {
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "goroutines left:\n%s\n", buf[:runtime.Stack(buf, true)])
			return true
		}
	}
	return false
}
