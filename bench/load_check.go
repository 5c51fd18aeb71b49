package main

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// verify compares what each member got with what was published.
func (l *load) verify() error {
	l.result.OneOrder = true
	for i := range l.rooms {
		r := &l.rooms[i]
		members := l.conns[r.first : r.first+r.n]
		for j := range members {
			c := &members[j]
			if c.stalled {
				continue
			}
			if c.count != r.count || c.sum != r.sum {
				return fmt.Errorf("member %d of %s got %d messages, want %d, each once", j, r.name, c.count, r.count)
			}
			if c.order != members[0].order {
				l.result.OneOrder = false
			}
		}
	}
	if l.Ordered && !l.result.OneOrder {
		return errors.New("members of a room saw its messages in different orders")
	}
	if l.Deflate && l.result.Deflated != l.result.Deliveries {
		return fmt.Errorf("%d of %d messages came compressed", l.result.Deflated, l.result.Deliveries)
	}
	if l.Stalled {
		return l.readStalled()
	}
	return nil
}

// scatter makes sums of numbers tell which numbers they are of.
func scatter(n uint32) uint64 {
	x := uint64(n)*0x9e3779b97f4a7c15 + 1
	x ^= x >> 29
	return x * 0xbf58476d1ce4e5b9
}

// read takes what waits on c. Edge-triggered: a read that did not fill the buffer has taken
// all.
func (l *load) read(c *loadConn) error {
	for {
		kept := copy(l.buf, c.rest)
		c.rest = c.rest[:0]
		space := l.buf[kept:]
		n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(c.fd), uintptr(unsafe.Pointer(unsafe.SliceData(space))), uintptr(len(space)))
		if errno != 0 {
			c.rest = append(c.rest, l.buf[:kept]...)
			if errno == unix.EAGAIN || errno == unix.EINTR {
				return nil
			}
			return ended(errno)
		}
		if n == 0 {
			return errClosed
		}
		l.result.Bytes += int64(n)
		b := l.buf[:kept+int(n)]
		for {
			used, err := l.frame(c, b)
			if err != nil {
				return err
			}
			if used == 0 {
				break
			}
			b = b[used:]
		}
		c.rest = append(c.rest, b...)
		if int(n) < len(space) {
			return nil
		}
	}
}

var errClosed = errors.New("the server closed the connection")

// ended tells the end of a connection from other errors: a server that closes while it has
// something to read resets the connection, which the next read or write sees first.
func ended(err error) error {
	if err == unix.ECONNRESET || err == unix.EPIPE {
		return fmt.Errorf("%w: %w", errClosed, err)
	}
	return err
}

// frame takes the frame at the start of b and returns its size, 0 where it is not complete.
func (l *load) frame(c *loadConn, b []byte) (int, error) {
	if len(b) < 2 {
		return 0, nil
	}
	head, size := 2, int(b[1])
	switch {
	case size == 126:
		if len(b) < 4 {
			return 0, nil
		}
		head, size = 4, int(binary.BigEndian.Uint16(b[2:]))
	case size == 127:
		if len(b) < 10 {
			return 0, nil
		}
		wide := binary.BigEndian.Uint64(b[2:])
		if wide > frameMax {
			return 0, fmt.Errorf("a frame of %d bytes", wide)
		}
		head, size = 10, int(wide)
	case size > 127:
		return 0, errors.New("a masked frame from the server")
	}
	if len(b) < head+size {
		return 0, nil
	}
	payload := b[head : head+size]
	if b[0] == 0x81 || b[0] == 0xc1 { // text, whole
		l.result.Frames++
		return head + size, l.message(c, payload, b[0] == 0xc1)
	}
	return head + size, l.otherFrame(c, b[0], payload)
}

// otherFrame takes fragments and control frames.
func (l *load) otherFrame(c *loadConn, first byte, payload []byte) error {
	switch first & 0x0f {
	case 0, 1:
		l.result.Frames++
		if first&0x0f == 1 {
			c.message, c.fragments, c.compressed = c.message[:0], true, first&0x40 != 0
		} else if !c.fragments {
			return errors.New("a continuation of nothing")
		}
		c.message = append(c.message, payload...)
		if first&0x80 != 0 {
			c.fragments = false
			return l.message(c, c.message, c.compressed)
		}
		return nil
	case 8:
		if len(payload) >= 2 {
			return fmt.Errorf("closed with %d %q", binary.BigEndian.Uint16(payload), payload[2:])
		}
		return errors.New("closed")
	case 9:
		return l.send(c, 10, payload)
	case 10:
		return nil
	}
	return fmt.Errorf("a frame that begins with %#x", first)
}

// message takes a whole text message.
func (l *load) message(c *loadConn, payload []byte, compressed bool) error {
	if compressed {
		if !l.Deflate {
			return errors.New("a compressed frame that nobody asked for")
		}
		return l.deflated(c, payload)
	}
	for first := true; ; first = false {
		n, rest, ok, err := l.nextMessage(payload)
		if err != nil {
			return err
		}
		if !ok {
			if a := l.Dialect.answer(payload); first && a != nil {
				return l.send(c, 1, a)
			}
			return nil
		}
		if err := l.delivered(c, n); err != nil {
			return err
		}
		if len(rest) == 0 {
			return nil
		}
		payload = rest
	}
}

// nextMessage finds the next message in a text frame's payload, compares its text with what was
// sent, and returns what comes after it.
func (l *load) nextMessage(payload []byte) (n uint32, rest []byte, ok bool, err error) {
	n, ok, rest, bad := l.Dialect.next(payload)
	if bad {
		return 0, nil, false, fmt.Errorf("refused: %.200s", payload)
	}
	if !ok {
		return 0, nil, false, nil
	}
	rest, same := bytes.CutPrefix(rest, l.texts[n%textCount][numberAt+numberSize:])
	if !same || l.Dialect == plainText && len(rest) > 0 {
		return 0, nil, false, fmt.Errorf("message %d is not what was sent: %.200s", n, payload)
	}
	return n, rest, true, nil
}

// deflated takes a compressed message. The same bytes are inflated once, and counted wherever
// else they come.
func (l *load) deflated(c *loadConn, payload []byte) error {
	key := maphash.Bytes(l.hash, payload)
	numbers, ok := l.inflated[key]
	if !ok {
		plain, err := l.inflate(payload)
		if err != nil {
			return err
		}
		numbers, err = l.numbers(plain)
		if err != nil {
			return err
		}
		if a := l.Dialect.answer(plain); a != nil {
			return l.send(c, 1, a)
		}
		if len(l.inflated) > 1<<14 {
			clear(l.inflated)
		}
		l.inflated[key] = numbers
	}
	for _, n := range numbers {
		if n&probeBit == 0 {
			l.result.Deflated++
		}
		if err := l.delivered(c, n); err != nil {
			return err
		}
	}
	return nil
}

// inflate undoes RFC 7692 section 7.2.1. The final empty block is for Go's reader, which wants
// an end.
func (l *load) inflate(payload []byte) ([]byte, error) {
	tail := io.MultiReader(bytes.NewReader(payload), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))
	if err := l.inflater.(flate.Resetter).Reset(tail, nil); err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(l.inflater, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("inflate: %w", err)
	}
	return plain, nil
}

// numbers are those of the messages in a payload.
func (l *load) numbers(payload []byte) (all []uint32, err error) {
	for {
		n, rest, ok, err := l.nextMessage(payload)
		if err != nil || !ok {
			return all, err
		}
		all = append(all, n)
		payload = rest
	}
}

// delivered counts message n at c, and publishes the next one where it was the last to get it.
func (l *load) delivered(c *loadConn, n uint32) error {
	if c.stalled {
		if n&probeBit == 0 {
			l.result.StalledGot++
		}
		return nil
	}
	if n&probeBit != 0 {
		if !c.probed {
			c.probed = true
			l.rooms[c.room].unprobed--
		}
		return nil
	}
	u := &l.underWay[n%underWayMax]
	if u.number != n || u.missing == 0 || u.room != c.room {
		return fmt.Errorf("message %d came twice, or into the wrong room, or was never sent", n)
	}
	c.count++
	c.sum += scatter(n)
	c.order = c.order*0x9e3779b97f4a7c15 + uint64(n) + 1
	l.result.Deliveries++
	if l.paced && len(l.latencies) < cap(l.latencies) {
		l.latencies = append(l.latencies, int64(time.Since(u.sent)))
	}
	u.missing--
	if u.missing > 0 {
		return nil
	}
	l.outstanding--
	if !l.publishing {
		return nil
	}
	now := time.Now()
	l.now = now
	if now.After(l.deadline) {
		l.publishing = false
		return nil
	}
	return l.publishNext(now)
}
