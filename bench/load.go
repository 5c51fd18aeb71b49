package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// loadConfig is what a load process does: it connects, and then runs one phase after another
// as it is told on its standard input.
type loadConfig struct {
	Address netip.AddrPort
	Dialect dialect
	Rooms   int
	Members int // of each room
	Size    int // of a message, bytes
	Deflate bool
	Ordered bool // all members of a room must see one order
	Stalled bool // the last member of the first room never reads
	Silent  bool // publish nothing: for connections at rest
	// Patience is how long what is under way may take after the end of a phase; 0: 20 s.
	Patience time.Duration
}

// A phase publishes for a time and waits until all has arrived.
type phase struct {
	Outstanding int     // closed loop: so many messages are under way; 0: paced
	PerSecond   float64 // paced: messages a second
	Millis      int
}

// result is what a phase saw. All of it arrived once at each member; otherwise the load fails.
type result struct {
	Messages   int64
	Deliveries int64
	Nanos      int64 // from the first publish to the last delivery
	Frames     int64 // data frames that came, of all sorts
	Bytes      int64 // that came
	Deflated   int64 // compressed messages that came
	OneOrder   bool  // all members of each room saw the same order
	P50, P99   int64 // of a paced phase: publish to delivery, ns
	StalledGot int64 // messages that the stalled member got when it read in the end
	StalledCut bool  // and then its connection ended
}

// load is one thread with one epoll and no allocation for a frame.
type load struct {
	loadConfig
	epoll  int
	conns  []loadConn
	rooms  []loadRoom
	texts  [][]byte
	buf    []byte // what a read fills; the start of a frame comes before it
	out    []byte // the frame that is being published
	inner  []byte // its payload
	events []unix.EpollEvent
	mask   [4]byte

	next        uint32 // number of the next message
	underWay    [underWayMax]underWay
	outstanding int
	room        int // that gets the next message
	publishing  bool
	deadline    time.Time
	now         time.Time // when the frames that are being read came
	latencies   []int64   // ns
	paced       bool
	probe       uint32
	result      result

	hash     maphash.Seed
	inflated map[uint64][]uint32 // hash of a compressed payload: numbers of its messages
	inflater io.ReadCloser
}

type loadConn struct {
	fd      int32
	room    int32
	stalled bool
	probed  bool // got a probe of this phase

	count      uint32 // messages of this phase
	sum, order uint64 // of their numbers, without and with their order

	rest []byte // the start of a frame
	// message is a fragmented one as far as it has come, in use where fragments is.
	message    []byte
	fragments  bool
	compressed bool
}

type loadRoom struct {
	name      string
	first, n  int // its members in conns
	publisher int
	count     uint32
	sum       uint64
	healthy   int // members that read
	unprobed  int
}

type underWay struct {
	number  uint32
	missing int32
	room    int32
	sent    time.Time
}

// underWayMax bounds how far apart the numbers of messages under way may be.
const underWayMax = 1 << 14

const stdinEvent = -1

// frameMax is the largest frame that is read. Centrifuge puts all that waits for a slow client
// into one.
const frameMax = 4 << 20

func runLoad(c loadConfig) error {
	runtime.GOMAXPROCS(1)
	runtime.LockOSThread()
	raiseFiles()
	if c.Patience == 0 {
		c.Patience = 20 * time.Second
	}
	l := &load{
		loadConfig: c,
		texts:      texts(c.Size),
		buf:        make([]byte, frameMax+256<<10),
		events:     make([]unix.EpollEvent, 1024),
		mask:       [4]byte{0x37, 0xfa, 0x21, 0x3d},
		latencies:  make([]int64, 0, 1<<20),
		hash:       maphash.MakeSeed(),
		inflated:   make(map[uint64][]uint32),
		inflater:   flate.NewReader(nil),
	}
	out := json.NewEncoder(os.Stdout)
	if err := l.connect(); err != nil {
		return err
	}
	if err := out.Encode(result{}); err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	stdin := unix.EpollEvent{Events: unix.EPOLLIN, Fd: stdinEvent}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, 0, &stdin); err != nil {
		return err
	}
	for {
		command, err := l.poll(-1)
		if err != nil {
			return err
		}
		if !command {
			continue
		}
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var p phase
		if err := json.Unmarshal(line, &p); err != nil {
			return err
		}
		if err := l.run(p); err != nil {
			return err
		}
		if err := out.Encode(l.result); err != nil {
			return err
		}
	}
}

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
	return writeAll(int(c.fd), l.out)
}

// publish sends message number n in a room; its members take turns.
func (l *load) publish(room int, n uint32) error {
	r := &l.rooms[room]
	c := &l.conns[r.first+r.publisher]
	r.publisher = (r.publisher + 1) % r.n
	if c.stalled {
		return l.publish(room, n)
	}
	message := l.texts[n%textCount]
	putNumber(message, n)
	l.inner = l.Dialect.publish(l.inner[:0], r.name, n, message)
	return l.send(c, 1, l.inner)
}

// publishNext publishes the next message, in the room whose turn it is.
func (l *load) publishNext(now time.Time) error {
	room := l.room
	l.room = (l.room + 1) % len(l.rooms)
	r := &l.rooms[room]
	n := l.next
	l.next = (l.next + 1) &^ probeBit
	u := &l.underWay[n%underWayMax]
	if u.missing > 0 {
		return fmt.Errorf("message %d is still missing at %d members when %d is published", u.number, u.missing, n)
	}
	*u = underWay{number: n, missing: int32(r.healthy), room: int32(room), sent: now}
	r.count++
	r.sum += scatter(n)
	l.outstanding++
	l.result.Messages++
	return l.publish(room, n)
}

// run does one phase.
func (l *load) run(p phase) error {
	l.result = result{}
	l.latencies = l.latencies[:0]
	clear(l.inflated)
	for i := range l.rooms {
		l.rooms[i].count, l.rooms[i].sum = 0, 0
	}
	for i := range l.conns {
		c := &l.conns[i]
		c.count, c.sum, c.order = 0, 0, 0
	}
	start := time.Now()
	l.now = start
	l.deadline = start.Add(time.Duration(p.Millis) * time.Millisecond)
	l.paced = p.Outstanding == 0
	var err error
	if l.paced {
		err = l.runPaced(start, time.Duration(float64(time.Second)/p.PerSecond))
	} else {
		err = l.runClosed(start, p.Outstanding)
	}
	if err != nil {
		return err
	}
	last := l.now
	if err := l.drain(&last); err != nil {
		return err
	}
	l.result.Nanos = int64(last.Sub(start))
	if len(l.latencies) > 0 {
		slices.Sort(l.latencies)
		l.result.P50 = l.latencies[len(l.latencies)/2]
		l.result.P99 = l.latencies[len(l.latencies)*99/100]
	}
	return l.verify()
}

func (l *load) runClosed(start time.Time, outstanding int) error {
	l.publishing = true
	for range outstanding {
		if err := l.publishNext(start); err != nil {
			return err
		}
	}
	end := l.deadline.Add(l.Patience)
	for l.publishing {
		if _, err := l.poll(100); err != nil {
			return err
		}
		// It ends with a delivery after the deadline, if there is one.
		if time.Now().After(end) {
			return fmt.Errorf("%d messages did not arrive at all members within %v", l.outstanding, l.Patience)
		}
	}
	return nil
}

func (l *load) runPaced(start time.Time, interval time.Duration) error {
	for due := start; due.Before(l.deadline); due = due.Add(interval) {
		if err := l.pollFor(time.Until(due)); err != nil {
			return err
		}
		if err := l.publishNext(time.Now()); err != nil {
			return err
		}
	}
	return nil
}

// drain waits for what is under way. last becomes the time of the last delivery.
func (l *load) drain(last *time.Time) error {
	for end := time.Now().Add(l.Patience); l.outstanding > 0; {
		if time.Now().After(end) {
			return fmt.Errorf("%d messages did not arrive at all members within %v", l.outstanding, l.Patience)
		}
		if _, err := l.poll(100); err != nil {
			return err
		}
		*last = l.now
	}
	// One more would be a message that came twice.
	_, err := l.poll(0)
	return err
}

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

// readStalled lets the stalled member read at last, until its connection ends or nothing has
// come for half a second.
func (l *load) readStalled() error {
	c := &l.conns[l.Members-1]
	timeout := []unix.PollFd{{Fd: c.fd, Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(timeout, 500)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		if err := l.read(c); err != nil {
			l.result.StalledCut = true
			return nil
		}
		if _, err := l.poll(0); err != nil {
			return err
		}
	}
}

// scatter makes sums of numbers tell which numbers they are of.
func scatter(n uint32) uint64 {
	x := uint64(n)*0x9e3779b97f4a7c15 + 1
	x ^= x >> 29
	return x * 0xbf58476d1ce4e5b9
}

// poll waits at most ms milliseconds (-1: for ever) and takes what has come. command says that
// standard input has something to read.
func (l *load) poll(ms int) (command bool, err error) {
	// Not unix.EpollWait: there is one thread, and nothing else that it could run meanwhile.
	r, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events[0])),
		uintptr(len(l.events)), uintptr(ms), 0, 0)
	if errno == unix.EINTR {
		return false, nil
	}
	if errno != 0 {
		return false, errno
	}
	if r > 0 {
		l.now = time.Now()
	}
	for _, e := range l.events[:r] {
		if e.Fd == stdinEvent {
			command = true
			continue
		}
		if err := l.read(&l.conns[e.Fd]); err != nil {
			return false, fmt.Errorf("connection %d: %w", e.Fd, err)
		}
	}
	return command, nil
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
			return errno
		}
		if n == 0 {
			return errors.New("the server closed the connection")
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

// parseAddress reads what a server prints.
func parseAddress(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err == nil && !a.Addr().IsLoopback() {
		err = &net.AddrError{Err: "not a loopback address", Addr: s}
	}
	return a, err
}
