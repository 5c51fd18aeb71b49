//go:build !unix

package wsconn

import (
	"errors"
	"net"
)

// A rawSocket is not to be had here: the queue serves, and reads wait with a buffer.
type rawSocket struct{}

func newRawSocket(net.Conn) *rawSocket { return nil }

func (*rawSocket) TryWrite([]byte) (int, error) { return 0, errors.ErrUnsupported }
func (*rawSocket) read() (*[]byte, int, error)  { return nil, 0, errors.ErrUnsupported }

// newTryReader has no non-blocking read here.
func newTryReader(net.Conn) func([]byte) (int, error) { return nil }
