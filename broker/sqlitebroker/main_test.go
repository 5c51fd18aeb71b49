package sqlitebroker

import (
	"os"
	"testing"

	"github.com/chathub-go/hub/internal/leaktest"
)

// TestMain lets the test binary be a process that is killed, and fails the package when a goroutine is left.
func TestMain(m *testing.M) {
	if path := os.Getenv(victimVariable); path != "" {
		victim(path)
	}
	os.Exit(leaktest.Run(m))
}
