//go:build unix

package wsconn

import (
	"io"
	"net"
	"os"
	"syscall"
)

// A rawSocket writes and reads a socket's descriptor. Its fields are the caller's: those of
// TryWrite its who owns the socket, those of read the reading goroutine's. A closure for each
// call would be an allocation for each call.
type rawSocket struct {
	raw syscall.RawConn

	p       []byte
	n       int
	err     error
	writeFn func(fd uintptr) // s.write

	in     *[]byte
	inN    int
	inErr  error
	readFn func(fd uintptr) bool // s.readNow
}

// newRawSocket returns nil where conn is not itself a socket. A type that embeds
// *net.TCPConn has its SyscallConn too, but may have another Write (encryption, say):
// hence the exact types.
func newRawSocket(conn net.Conn) *rawSocket {
	if noFastPath {
		return nil
	}
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
	s := &rawSocket{raw: raw}
	s.writeFn, s.readFn = s.write, s.readNow
	return s
}

func (s *rawSocket) TryWrite(p []byte) (int, error) {
	s.p, s.n, s.err = p, 0, nil
	err := s.raw.Control(s.writeFn) // not its Write: that makes ready to wait, and nothing waits here
	s.p = nil
	if err == nil {
		err = s.err
	}
	return s.n, err
}

func (s *rawSocket) write(fd uintptr) {
	for {
		n, err := writeNow(fd, s.p)
		switch err {
		case nil:
			s.n = n
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
		default:
			s.err = err
		}
		return
	}
}

// read waits for input and returns it in a buffer, which is freeMessage's. While it waits
// it holds none.
func (s *rawSocket) read() (buf *[]byte, n int, err error) {
	err = s.raw.Read(s.readFn)
	buf, n = s.in, s.inN
	if err == nil {
		err = s.inErr
	}
	s.in, s.inN, s.inErr = nil, 0, nil
	return buf, n, err
}

// readNow tells the poller to wait where there is nothing yet.
func (s *rawSocket) readNow(fd uintptr) bool {
	buf := newMessage(messageSizes[1])
	for {
		n, err := syscall.Read(int(fd), *buf)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			freeMessage(buf)
			return false
		case n > 0:
			s.in, s.inN = buf, n
			return true
		case err == nil:
			s.inErr = io.EOF
		default:
			s.inErr = os.NewSyscallError("read", err)
		}
		freeMessage(buf)
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
