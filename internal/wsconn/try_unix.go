//go:build unix

package wsconn

import (
	"net"
	"syscall"
)

// rawWriter is TryWrite over a socket's descriptor. Its fields are the caller's, who
// owns the socket: a closure for each write would be an allocation for each write.
type rawWriter struct {
	raw syscall.RawConn
	p   []byte
	n   int
	err error
	fn  func(fd uintptr) bool // rw.write
}

// newRawWriter returns nil where conn is not itself a socket. A type that embeds
// *net.TCPConn has its SyscallConn too, but may have another Write (encryption, say):
// hence the exact types.
func newRawWriter(conn net.Conn) tryWriter {
	var raw syscall.RawConn
	var err error
	switch conn := conn.(type) {
	case *net.TCPConn:
		raw, err = conn.SyscallConn()
	case *net.UnixConn:
		raw, err = conn.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	w := &rawWriter{raw: raw}
	w.fn = w.write
	return w
}

func (w *rawWriter) TryWrite(p []byte) (int, error) {
	w.p, w.n, w.err = p, 0, nil
	err := w.raw.Write(w.fn)
	w.p = nil
	if err == nil {
		err = w.err
	}
	return w.n, err
}

// write tells that it is done whatever happened: the poller is not to wait.
func (w *rawWriter) write(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), w.p)
		switch err {
		case nil:
			w.n = n
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
		default:
			w.err = err
		}
		return true
	}
}

// newTryReader returns a Read that never waits: 0 bytes with no error are none for now, or
// the end. It is nil where conn carries no socket. The bytes are the socket's own, whatever
// conn makes of them.
func newTryReader(conn net.Conn) func([]byte) (int, error) {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil
	}
	return func(p []byte) (n int, err error) {
		rawErr := raw.Read(func(fd uintptr) bool {
			for {
				n, err = syscall.Read(int(fd), p)
				switch err {
				case syscall.EINTR:
					continue
				case syscall.EAGAIN:
					err = nil
				}
				n = max(n, 0)
				return true
			}
		})
		if rawErr != nil {
			return 0, rawErr
		}
		return n, err
	}
}
