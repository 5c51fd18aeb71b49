package main

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain is this program itself where it was started as a server or a load.
func TestMain(m *testing.M) {
	kinds = append(kinds, brokenKinds...)
	if os.Getenv(roleVariable) != "" {
		main()
		return
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")) // of the children: a second each
	before := runtime.NumGoroutine()
	code := m.Run()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "goroutines left:\n%s\n", buf[:runtime.Stack(buf, true)])
			code = 1
			break
		}
	}
	os.Exit(code)
}

// Each kind serves 20 clients in two rooms, and the load finds that all is right.
func TestEachKindServes(t *testing.T) {
	for _, k := range kinds {
		for _, deflate := range []bool{false, true} {
			if deflate && k.floor || strings.HasPrefix(k.name, "broken") {
				continue
			}
			t.Run(fmt.Sprintf("%s/deflate=%v", k.name, deflate), func(t *testing.T) {
				p, err := connect(k, loadConfig{Rooms: 2, Members: 10, Size: 512, Deflate: deflate})
				require.NoError(t, err)
				defer p.stop()
				_, err = p.run(phase{Outstanding: 4, Millis: 10}) // what came of connecting does not count
				require.NoError(t, err)
				m, err := p.run(phase{Outstanding: 4, Millis: 50})
				require.NoError(t, err)
				require.Equal(t, 10*m.Messages, m.Deliveries)
				require.GreaterOrEqual(t, m.Messages, int64(4))
				require.Greater(t, m.cpu(), 0.0)
				if deflate {
					require.Equal(t, m.Deliveries, m.Deflated)
					require.Less(t, m.Bytes/m.Deliveries, int64(512))
				}
				m, err = p.run(phase{PerSecond: 100, Millis: 100})
				require.NoError(t, err)
				require.Equal(t, int64(10), m.Messages)
				require.Greater(t, m.P99, int64(0))
			})
		}
	}
}

// A server that does one of these things wrong must not get a figure.
func TestLoadCatchesBrokenServers(t *testing.T) {
	for name, want := range map[string]string{
		"broken-lose":    "did not arrive at all members",
		"broken-twice":   "came twice",
		"broken-order":   "different orders",
		"broken-text":    "is not what was sent",
		"broken-room":    "wrong room",
		"broken-close":   "closed",
		"broken-deflate": "came compressed",
		"none":           "",
	} {
		t.Run(name, func(t *testing.T) {
			k, ok := kindNamed("broken-" + strings.TrimPrefix(name, "broken-"))
			require.True(t, ok)
			c := loadConfig{Rooms: 2, Members: 5, Size: 128, Patience: 300 * time.Millisecond, Deflate: name == "broken-deflate"}
			p, err := connect(k, c)
			require.NoError(t, err)
			defer p.stop()
			_, err = p.run(phase{Outstanding: 6, Millis: 100})
			if want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

// brokenKinds do one thing wrong at the fourth member of the first room, from message 20 on.
var brokenKinds = func() (all []kind) {
	for _, fault := range []string{"none", "lose", "twice", "order", "text", "room", "close", "deflate"} {
		all = append(all, kind{name: "broken-" + fault, handler: brokenHandler(fault), ordered: true})
	}
	return all
}()

type brokenRoom struct {
	members []*floorConn
	held    []byte
}

func brokenHandler(fault string) func(serverConfig) http.Handler {
	return func(config serverConfig) http.Handler {
		var mu sync.Mutex
		rooms := make(map[string]*brokenRoom) // guarded by mu
		done := false
		deliver := func(room *brokenRoom, name string, i int, frame []byte) {
			c := room.members[i]
			n, ok := number(frame[2+2*oneOrNone(len(frame) > 127):])
			if i != 3 || name != "room0" || !ok || n&probeBit != 0 || n < 20 || done && fault != "order" {
				c.write(frame)
				return
			}
			if room.held != nil {
				c.write(frame)
				c.write(room.held)
				room.held = nil
				return
			}
			if done {
				c.write(frame)
				return
			}
			done = true
			switch fault {
			case "lose":
			case "twice":
				c.write(frame)
				c.write(frame)
			case "order":
				room.held = bytes.Clone(frame)
			case "text":
				frame = bytes.Clone(frame)
				frame[len(frame)-10] ^= 1
				c.write(frame)
			case "room":
				c.write(frame)
				rooms["room1"].members[0].write(frame)
			case "close":
				c.Close()
			default:
				c.write(frame)
			}
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if config.Deflate {
				w.Header().Set("Sec-WebSocket-Extensions", "permessage-deflate; server_no_context_takeover")
			}
			c, _, err := floorUpgrade(w, r)
			if err != nil {
				return
			}
			mu.Lock()
			name := r.PathValue("room")
			room := rooms[name]
			if room == nil {
				room = new(brokenRoom)
				rooms[name] = room
			}
			room.members = append(room.members, c)
			mu.Unlock()
			go func() {
				in := bufio.NewReader(c.Conn)
				for {
					frame, err := readPublish(in, nil)
					if err != nil {
						return
					}
					mu.Lock()
					for i := range room.members {
						deliver(room, name, i, frame)
					}
					mu.Unlock()
				}
			}()
		})
	}
}

func oneOrNone(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestMessages(t *testing.T) {
	for _, size := range []int{messageMin, 128, 512, 4096} {
		all := texts(size)
		require.Len(t, all, textCount)
		require.NotEqual(t, all[0], all[1])
		for i, m := range all {
			require.Len(t, m, size)
			putNumber(m, uint32(i)*0x01234567)
			n, ok := number(m)
			require.True(t, ok)
			require.Equal(t, uint32(i)*0x01234567, n)
			require.JSONEq(t, string(m), string(m))
		}
	}
	_, ok := number([]byte(`{"m":"0000000g"` + strings.Repeat(" ", 100)))
	require.False(t, ok)
}

// A frame of centrifuge may have several messages.
func TestSeveralMessagesInAFrame(t *testing.T) {
	l := &load{loadConfig: loadConfig{Dialect: centrifugal}, texts: texts(128)}
	var payload []byte
	for n := range uint32(3) {
		m := bytes.Clone(l.texts[n])
		putNumber(m, n)
		payload = fmt.Appendf(payload, `{"push":{"channel":"room0","pub":{"data":%s}}}`+"\n", m)
		payload = append(payload, `{"id":9,"publish":{}}`+"\n"...)
	}
	got, err := l.numbers(payload)
	require.NoError(t, err)
	require.Equal(t, []uint32{0, 1, 2}, got)

	_, err = l.numbers([]byte(`{"id":9,"error":{"code":103,"message":"permission denied"}}`))
	require.ErrorContains(t, err, "refused")
}

func TestSpread(t *testing.T) {
	var s samples
	for round, v := range []float64{30, 10, 20} {
		s.add("row", "a", mCPU, round, v)
		s.add("row", "b", mCPU, round, 10)
	}
	require.Equal(t, spread{Median: 20, Min: 10, Max: 30, N: 3}, s.spread("row", "a", mCPU))
	require.Equal(t, spread{Median: 2, Min: 1, Max: 3, N: 3}, s.ratio("row", "a", mCPU, "row", "b", mCPU))
	require.Equal(t, "2.0 × (1.0 to 3.0)", s.ratio("row", "a", mCPU, "row", "b", mCPU).text("%.1f ×"))
	require.Equal(t, "1,234,567 and 1234.56789", grouped("1234567 and 1234.56789"))
}

func TestBestPeer(t *testing.T) {
	var s samples
	s.add("row", "hub", mRate, 0, 900)
	s.add("row", "gws", mRate, 0, 500)
	s.add("row", "gorilla", mRate, 0, 700)
	require.Equal(t, "gorilla", s.best("row", mRate, true))
	require.Equal(t, "gws", s.best("row", mRate, false))
	require.Empty(t, s.best("row", mCPU, true))
}

// The report says where the hub loses, keeps what was written by hand, and its charts are XML.
func TestReport(t *testing.T) {
	b := &bench{rounds: 3, time: time.Second, only: regexp.MustCompile("")}
	for round := range 3 {
		for kind, cpu := range map[string]float64{"floor": 5, "hub": 6, "gws": 5.5} {
			for _, row := range []string{rowSingle, rowOutstanding} {
				b.samples.add(row, kind, mCPU, round, cpu)
				b.samples.add(row, kind, mUser, round, cpu/4)
				b.samples.add(row, kind, mRate, round, 1e6/cpu)
			}
		}
		for _, size := range sizes {
			b.samples.add(sizeRow(size), "floor", mCPU, round, 5)
			b.samples.add(sizeRow(size), "hub", mCPU, round, 5+float64(round))
		}
	}
	b.failures = []failure{{[]string{rowIdle}, "nhooyr", 2, "gone\naway"}}
	dir := t.TempDir()
	file := filepath.Join(dir, "benchmarks.md")
	require.NoError(t, newReport(b).write(file))
	first, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, want := range []string{
		"| at most 1.15 × the floor's CPU | 1.20 × | **not reached** |",
		"| the largest ratio at most 1.2 × the smallest, from 100 to 10,000 members | 1.00 × (ratios from 1.20 to 1.20) | reached |",
		"the hub 6.00; ahead are gws 5.50.",
		"nhooyr, round 2: gone away | **failed** |",
		"benchmarks-single.svg", "benchmarks-sizes.svg",
	} {
		require.Contains(t, string(first), want)
	}
	require.NotContains(t, string(first), "NaN")

	edited := strings.Replace(string(first), notesBegin+"\nNone.\n", notesBegin+"\nWritten by hand.\n", 1)
	require.NoError(t, os.WriteFile(file, []byte(edited), 0o644))
	require.NoError(t, newReport(b).write(file))
	second, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, edited, string(second))

	charts, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	require.NoError(t, err)
	require.Len(t, charts, 3)
	for _, name := range charts {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		decoder := xml.NewDecoder(bytes.NewReader(data))
		for err == nil {
			_, err = decoder.Token()
		}
		require.True(t, errors.Is(err, io.EOF), "%s: %v", name, err)
	}
}

// The rooms that are measured are open and empty, or have no loop any more.
func TestIdleRooms(t *testing.T) {
	r, err := idleRoomsCost(idleRoomsConfig{Rooms: 20}, texts(128)[0])
	require.NoError(t, err)
	require.Greater(t, r.Empty, 0.0)
	require.InDelta(t, 1, r.Goroutines, 0.5)
	r, err = idleRoomsCost(idleRoomsConfig{Rooms: 20, Idle: 50 * time.Millisecond}, texts(128)[0])
	require.NoError(t, err)
	require.InDelta(t, 0, r.Goroutines, 0.5)
}

func BenchmarkLoadFrame(b *testing.B) {
	l := &load{loadConfig: loadConfig{Size: 128}, texts: texts(128)}
	l.rooms = make([]loadRoom, 1)
	c := new(loadConn)
	frames := make([][]byte, 64)
	for i := range frames {
		m := l.texts[i]
		putNumber(m, uint32(i))
		frames[i] = append(appendHeader(nil, len(m)), m...)
		l.underWay[i] = underWay{number: uint32(i), missing: 1 << 30}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := l.frame(c, frames[i%64]); err != nil {
			b.Fatal(err)
		}
	}
}

// The broker and bare SQLite commit, in turn.
func TestDurable(t *testing.T) {
	r, err := durableIn(t.TempDir(), 300*time.Millisecond)
	require.NoError(t, err)
	require.Positive(t, r.Broker, "publishes/s")
	require.Positive(t, r.Bare, "bare messages/s")
	require.GreaterOrEqual(t, r.Batch, 1.0, "messages of a transaction")
}
