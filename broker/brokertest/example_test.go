package brokertest_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/broker/brokertest"
)

// fileBroker stands for the broker under test, of one process, which keeps all in one file.
type fileBroker struct {
	broker.Broker
	path   string
	limits brokertest.Limits // as options of its own
}

// testFileBroker is the test of a durable broker, TestFileBroker in its own package.
func testFileBroker(t *testing.T) {
	brokertest.Run(t, brokertest.Harness{
		Open: func(t *testing.T, l brokertest.Limits) broker.Broker {
			return openFile(t, filepath.Join(t.TempDir(), "rooms"), l)
		},
		// Adds the group Restart.
		Restart: func(t *testing.T, b broker.Broker) broker.Broker {
			old := b.(*fileBroker)
			require.NoError(t, old.Close())
			return openFile(t, old.path, old.limits)
		},
		// Adds the group Kill. What a killed process had not yet written is not in the copy.
		Kill: func(t *testing.T, b broker.Broker) broker.Broker {
			old := b.(*fileBroker)
			path := filepath.Join(t.TempDir(), "rooms")
			copyAsKilled(t, old.path, path)
			return openFile(t, path, old.limits)
		},
		// It does I/O, so time is real, but a window and an age can be as short as this.
		Second:   100 * time.Millisecond,
		Parallel: true,
		// Publishes of this broker wait for nobody: it hands on what is in the file.
		Unbounded: true,
	})
}

// A durable broker's test says how to open it again, after a Close and after a kill.
func ExampleRun() {
	_ = testFileBroker // go test runs it
}
