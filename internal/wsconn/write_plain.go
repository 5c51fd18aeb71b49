//go:build unix && !(linux && (amd64 || arm64 || arm || riscv64 || loong64))

package wsconn

import "syscall"

// writeNow writes what a socket takes at once.
func writeNow(fd uintptr, p []byte) (int, error) {
	n, err := syscall.Write(int(fd), p)
	return max(n, 0), err
}
