package wsconn

import (
	"syscall"
	"unsafe"
)

// writeNow is write(2) of a descriptor that does not block. The scheduler is not told: it takes
// the 10 µs of a write to a socket for a call that waits, and hands the processor to another
// thread, which costs more than the call.
func writeNow(fd uintptr, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
