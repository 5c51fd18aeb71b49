package wsconn

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestMain fails the package when a goroutine is left.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leaked(5 * time.Second); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leaked returns the stacks of goroutines that are not gone within d. Those that were told
// to end may need to be scheduled once more.
func leaked(d time.Duration) string {
	for deadline := time.Now().Add(d); ; runtime.Gosched() {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		var left []byte
		for i, g := range bytes.Split(buf, []byte("\n\n")) {
			ours := bytes.Contains(g, []byte("websocket.")) || bytes.Contains(g, []byte("wsconn.")) ||
				bytes.Contains(g, []byte("net/http.")) || bytes.Contains(g, []byte("memnet."))
			if i > 0 && ours { // 0 is this one
				left = append(append(left, g...), "\n\n"...)
			}
		}
		if left == nil || time.Now().After(deadline) {
			return string(left)
		}
	}
}
