package main

import (
	"bufio"
	"compress/flate"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
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
