package sim

import (
	"fmt"
	"hash/fnv"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/chathub-go/hub/broker"
)

func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	if code == 0 {
		code = leaked(before)
	}
	os.Exit(code)
}

// leaked tells whether goroutines are left that were not there before the tests. The
// runtime may need a moment to end those that have returned.
func leaked(before int) int {
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "goroutines left: %d, before the tests: %d\n%s\n",
				runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			return 1
		}
		runtime.Gosched()
	}
	return 0
}

var (
	countsMu sync.Mutex // guards counts
	counts   = map[string]int{}
)

// count notes that something happened at all: see coverage.
func count(what string) {
	countsMu.Lock()
	defer countsMu.Unlock()
	counts[what]++
}

// sum is what a message says, in short.
func sum(m *broker.Message) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte{byte(m.Kind)})
	_, _ = h.Write(m.Data)
	_, _ = h.Write([]byte{0xff, byte(len(m.Key))})
	_, _ = h.Write([]byte(m.Key))
	return h.Sum64()
}
