package wsconn

import (
	"net"
	"os"
)

// A tryWriter writes what fits at once. It never waits: n may be short, and 0, with
// no error. One goroutine at a time, which owns the socket.
type tryWriter interface {
	TryWrite(p []byte) (n int, err error)
}

// noFastPath switches off what needs a descriptor, or a TryWrite, so that tests can run all
// they have over what TLS and Windows have.
var noFastPath = os.Getenv("HUB_NO_FASTPATH") == "1"

// newTryWriter returns nil where conn has no write that never waits.
func newTryWriter(conn net.Conn, socket *rawSocket) tryWriter {
	if noFastPath {
		return nil
	}
	if t, ok := conn.(tryWriter); ok {
		return t
	}
	if socket != nil {
		return socket
	}
	return nil
}
