// Package leaktest fails a package's tests where a goroutine is left behind.
package leaktest

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"time"
)

var patience = 5 * time.Second // tests change it

// Run runs the tests and returns the code for TestMain to exit with: 1 also where goroutines are left, after the
// tests, that were not there before. The runtime gets 5 s to end those that have returned. While fuzzing it does not
// look: that leaves a goroutine of its own, which waits for Ctrl-C.
func Run(m interface{ Run() int }) (code int) {
	before := runtime.NumGoroutine()
	code = m.Run()
	if fuzz := flag.Lookup("test.fuzz"); code != 0 || fuzz != nil && fuzz.Value.String() != "" {
		return code
	}
	http.DefaultClient.CloseIdleConnections()
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "goroutines left: %d, before the tests: %d\n%s\n",
				runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			return 1
		}
	}
	return 0
}
