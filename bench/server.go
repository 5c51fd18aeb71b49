package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A kind is one way to serve rooms. Each serves /room/{room}: a text message that comes in
// goes to every member of the room, its sender too.
type kind struct {
	name    string
	handler func(serverConfig) http.Handler
	dialect dialect
	floor   bool // no library, and no compression
	peer    bool // a library that people would pick instead of the hub
	// ordered kinds promise their members one order; the load fails them where it differs.
	ordered bool
	about   string // for the report
}

var kinds = []kind{
	{name: "floor", handler: floorHandler(false), floor: true, ordered: true,
		about: "no library: a loop of raw `write` of a ready frame over the room's descriptors; reads the publishes, bounds nothing"},
	{name: "floor-batched", handler: floorHandler(true), floor: true, ordered: true,
		about: "the same, with all frames that wait in one `write`"},
	{name: "hub", handler: hubHandler, ordered: true,
		about: "this hub, plain door, text format `RawText` (the same bytes on the wire as the others), no rate limit; all else as by default, so it keeps a history of 256 messages, which no other kind here does"},
	{name: "hub-json", handler: hubHandler, dialect: hubJSON, ordered: true,
		about: "the same hub, JSON door: every publish has an id, is acked, and is remembered against repeats"},
	{name: "gws", handler: gwsHandler, peer: true,
		about: "its `Broadcaster`, one list of members for each room; members of a room may see messages in different orders"},
	{name: "gorilla", handler: gorillaHandler, peer: true, ordered: true,
		about: "its chat example with a `PreparedMessage`: one select loop for each room, two goroutines and a channel of 256 for each client; pool of write buffers"},
	{name: "melody", handler: melodyHandler, peer: true, ordered: true,
		about: "one `Melody` for each room (faster than its `BroadcastFilter`)"},
	{name: "nhooyr", handler: nhooyrHandler, peer: true, ordered: true,
		about: "its `Write` in a hub of the same shape as gorilla's"},
	{name: "centrifuge", handler: centrifugeHandler, dialect: centrifugal, peer: true, ordered: true,
		about: "memory broker, JSON protocol, no history; all that waits in one frame (`MaxMessagesInFrame` -1), pool of write buffers, cache of prepared messages for compression, and for connections at rest `ProcessCommandsOffReadLoop`; each message is wrapped in its protocol, some 50 bytes more"},
}

func kindNamed(name string) (kind, bool) {
	for _, k := range kinds {
		if k.name == name {
			return k, true
		}
	}
	return kind{}, false
}

// stats is what a server tells about itself.
type stats struct {
	User       int64  // CPU time in user mode, µs, from getrusage
	System     int64  // CPU time in the kernel, µs
	RSS        int64  // resident memory, bytes, from /proc
	Mallocs    uint64 // allocations since the start
	Heap       uint64 // HeapInuse, bytes
	Live       uint64 // HeapAlloc, bytes
	Stack      uint64 // StackInuse, bytes
	Goroutines int
}

func readStats() (s stats) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.Mallocs, s.Heap, s.Live, s.Stack = m.Mallocs, m.HeapInuse, m.HeapAlloc, m.StackInuse
	s.Goroutines = runtime.NumGoroutine()
	s.RSS = rss()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err == nil {
		s.User = u.Utime.Sec*1e6 + u.Utime.Usec
		s.System = u.Stime.Sec*1e6 + u.Stime.Usec
	}
	return s
}

// rss is this process's resident memory in bytes.
func rss() int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "VmRSS:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// serve is the server process. It prints its address and answers commands until its standard
// input ends, each with its stats: "stats"; "free", which gives memory back to the system first;
// "cpu FILE" and "cpu", which begin and end a CPU profile; "heap FILE", which writes a profile of
// the heap.
func serve(k kind, c serverConfig) error {
	raiseFiles()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/room/{room}", k.handler(c))
	failed := make(chan error, 1)
	go func() { failed <- http.Serve(listener, mux) }()

	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(listener.Addr().String()); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		command, file, _ := strings.Cut(in.Text(), " ")
		switch {
		case command == "stats":
		case command == "free":
			debug.FreeOSMemory()
		case command == "cpu" && file == "":
			pprof.StopCPUProfile()
		case command == "cpu":
			err = profileTo(file, pprof.StartCPUProfile)
		case command == "heap":
			err = profileTo(file, pprof.WriteHeapProfile)
		default:
			err = fmt.Errorf("no command %q", command)
		}
		if err != nil {
			return err
		}
		if err := out.Encode(readStats()); err != nil {
			return err
		}
		select {
		case err := <-failed:
			return err
		default:
		}
	}
	return in.Err()
}

// profileTo calls write with a new file. The file of a CPU profile stays open while it is taken.
func profileTo(name string, write func(io.Writer) error) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	return write(file)
}

// raiseFiles lets this process open as many files as it may.
func raiseFiles() {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil && l.Cur < l.Max {
		l.Cur = l.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
	}
}
