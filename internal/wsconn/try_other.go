//go:build !unix

package wsconn

import "net"

// newRawWriter has no non-blocking write here: the queue serves.
func newRawWriter(net.Conn) tryWriter { return nil }

// newTryReader has no non-blocking read here.
func newTryReader(net.Conn) func([]byte) (int, error) { return nil }
