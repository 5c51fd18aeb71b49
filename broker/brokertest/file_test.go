package brokertest_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/broker/brokertest"
)

// files are the disks of the example, by path.
var files sync.Map

// openFile opens the disk at path, which is made where there is none.
func openFile(_ *testing.T, path string, l brokertest.Limits) *fileBroker {
	d, _ := files.LoadOrStore(path, newDisk(l))
	return &fileBroker{Broker: &diskBroker{d: d.(*disk)}, path: path, limits: l}
}

// copyAsKilled copies what is kept at one path to another.
func copyAsKilled(t *testing.T, from, to string) {
	v, ok := files.Load(from)
	require.True(t, ok, "file %s", from)
	d := v.(*disk)
	d.mu.Lock()
	defer d.mu.Unlock()
	c := newDisk(brokertest.Limits{Messages: d.messages, Age: d.age, DedupWindow: d.window})
	for name, r := range d.rooms {
		c.rooms[name] = &diskRoom{head: r.head, edge: r.edge, kept: append([]*broker.Message(nil), r.kept...), members: make(map[diskMember]broker.Member)}
	}
	for k, rec := range d.seen {
		c.seen[k] = rec
	}
	files.Store(to, c)
}

// The example is a test that passes; the broker that was copied lives on, as some harness may have it.
func TestExample(t *testing.T) { testFileBroker(t) }
