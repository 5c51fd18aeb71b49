package brokertest_test

import (
	"os"
	"testing"

	"github.com/chathub-go/hub/internal/leaktest"
)

// TestMain fails the package when a goroutine is left.
func TestMain(m *testing.M) {
	os.Exit(leaktest.Run(m))
}
