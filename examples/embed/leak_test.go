package main

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"time"
)

// leaked tells whether goroutines are left that were not there before the tests. The
// runtime may need a moment to end those that have returned.
func leaked(before int) bool {
	http.DefaultClient.CloseIdleConnections()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "goroutines left:\n%s\n", buf[:runtime.Stack(buf, true)])
			return true
		}
	}
	return false
}
