//go:build unix && !linux

package wsconn

import "syscall"

// writeNow is write(2) of a descriptor that does not block.
func writeNow(fd uintptr, p []byte) (int, error) {
	n, err := syscall.Write(int(fd), p)
	return max(n, 0), err
}
