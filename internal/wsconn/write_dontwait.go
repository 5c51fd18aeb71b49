//go:build linux && (amd64 || arm64 || arm || riscv64 || loong64)

package wsconn

import (
	"syscall"
	"unsafe"
)

// writeNow writes what a socket takes at once. The scheduler is not told: it takes the 10 µs of
// a write to a socket for a call that waits, and hands the processor to another thread, which
// costs more than the call. So it must not wait whatever the socket's mode is: File().Fd() of
// any copy of it makes it one that blocks.
func writeNow(fd uintptr, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
