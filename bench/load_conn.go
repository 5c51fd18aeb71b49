package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// connect opens all connections and waits until each room's members get what is published.
func (l *load) connect() (err error) {
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	l.conns = make([]loadConn, l.Rooms*l.Members)
	l.rooms = make([]loadRoom, l.Rooms)
	for i := range l.rooms {
		l.rooms[i] = loadRoom{name: fmt.Sprintf("room%d", i), first: i * l.Members, n: l.Members, healthy: l.Members}
	}
	for i := range l.conns {
		c := &l.conns[i]
		c.room = int32(i / l.Members)
		c.stalled = l.Stalled && i == l.Members-1
		early, err := l.dial(c)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		c.rest = early // complete with the next read
		if g := l.Dialect.greeting(l.rooms[c.room].name); g != nil {
			if err := l.send(c, 1, g); err != nil {
				return err
			}
		}
		if c.stalled {
			l.rooms[0].healthy--
			continue
		}
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(i)}
		if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, int(c.fd), &event); err != nil {
			return err
		}
		if i%50 == 49 { // what the server tells about joins must not pile up
			if _, err := l.poll(0); err != nil {
				return err
			}
		}
	}
	if l.Silent {
		return nil
	}
	return l.probeAll()
}

// probeAll publishes probes until all members of all rooms got one.
func (l *load) probeAll() error {
	for i := range l.rooms {
		l.rooms[i].unprobed = l.rooms[i].healthy
	}
	for range 100 {
		for i := range l.rooms {
			if l.rooms[i].unprobed > 0 {
				l.probe++
				if err := l.publish(i, probeBit|l.probe); err != nil {
					return err
				}
			}
			if i%50 == 49 {
				if _, err := l.poll(0); err != nil {
					return err
				}
			}
		}
		for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
			if !slices.ContainsFunc(l.rooms, func(r loadRoom) bool { return r.unprobed > 0 }) {
				return nil
			}
			if _, err := l.poll(10); err != nil {
				return err
			}
		}
	}
	return errors.New("not all members of a room get its messages")
}

func (l *load) pollFor(d time.Duration) error {
	for end := time.Now().Add(d); ; {
		left := max(0, time.Until(end))
		if _, err := l.poll(int((left + time.Millisecond - 1) / time.Millisecond)); err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
	}
}

// dial connects, does the handshake, and returns what came behind it.
func (l *load) dial(c *loadConn) ([]byte, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	c.fd = int32(fd)
	if c.stalled {
		// Between them the buffers of a loopback connection take megabytes, since its segments
		// are of 64 KiB. With these a stalled client is felt after some 80 KiB.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1400)
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	// Reset at the end: nothing lingers into the next measurement.
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20})
	address := &unix.SockaddrInet4{Port: int(l.Address.Port()), Addr: l.Address.Addr().As4()}
	for err = unix.EINTR; err == unix.EINTR; { // the runtime's own signals
		err = unix.Connect(fd, address)
	}
	if err != nil && err != unix.EISCONN {
		return nil, err
	}
	var request strings.Builder
	fmt.Fprintf(&request, "GET /room/%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", l.rooms[c.room].name, l.Address)
	if p := l.Dialect.subprotocol(); p != "" {
		fmt.Fprintf(&request, "Sec-WebSocket-Protocol: %s\r\n", p)
	}
	if l.Deflate {
		request.WriteString("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n")
	}
	request.WriteString("\r\n")
	if err := writeAll(fd, []byte(request.String())); err != nil {
		return nil, err
	}
	var got []byte
	for {
		n, err := unix.Read(fd, l.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		got = append(got, l.buf[:n]...)
		if end := bytes.Index(got, []byte("\r\n\r\n")); end >= 0 {
			if err := l.checkHandshake(got[:end+4]); err != nil {
				return nil, err
			}
			return slices.Clone(got[end+4:]), unix.SetNonblock(fd, true)
		}
	}
}

func (l *load) checkHandshake(b []byte) error {
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("handshake: %s", response.Status)
	}
	if got := response.Header.Get("Sec-WebSocket-Protocol"); got != l.Dialect.subprotocol() {
		return fmt.Errorf("subprotocol %q, want %q", got, l.Dialect.subprotocol())
	}
	extensions := response.Header.Get("Sec-WebSocket-Extensions")
	if l.Deflate != strings.Contains(extensions, "permessage-deflate") {
		return fmt.Errorf("extensions: %q, want deflate: %v", extensions, l.Deflate)
	}
	if l.Deflate && !strings.Contains(extensions, "server_no_context_takeover") {
		return fmt.Errorf("extensions: %q, want no context takeover", extensions)
	}
	return nil
}

func writeAll(fd int, b []byte) error {
	n, err := unix.Write(fd, b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// send writes one masked frame.
func (l *load) send(c *loadConn, opcode byte, payload []byte) error {
	l.out = append(l.out[:0], 0x80|opcode)
	if len(payload) < 126 {
		l.out = append(l.out, 0x80|byte(len(payload)))
	} else {
		l.out = binary.BigEndian.AppendUint16(append(l.out, 0x80|126), uint16(len(payload)))
	}
	l.out = append(l.out, l.mask[:]...)
	at := len(l.out)
	l.out = append(l.out, payload...)
	maskBytes(l.mask, l.out[at:])
	return ended(writeAll(int(c.fd), l.out))
}

// parseAddress reads what a server prints.
func parseAddress(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err == nil && !a.Addr().IsLoopback() {
		err = &net.AddrError{Err: "not a loopback address", Addr: s}
	}
	return a, err
}
