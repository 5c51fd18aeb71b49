package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The rows of the report, by the names that -only takes.
const (
	rowSingle      = "single"
	rowOutstanding = "outstanding"
	rowRooms       = "rooms"
	rowDeflate     = "deflate"
	rowJSON        = "json"
	rowStalled     = "stalled"
	rowIdle        = "idle"
	rowAllocs      = "allocs"
	rowIdleRooms   = "idle-rooms"
	rowSizes       = "sizes"
	rowDurable     = "durable"
)

var rowNames = []string{rowSingle, rowOutstanding, rowJSON, rowAllocs, rowRooms, rowDeflate, rowStalled, rowIdle, rowIdleRooms, rowSizes, rowDurable}

// How much each row does.
const (
	oneRoom      = 1000 // members
	smallSize    = 128  // bytes
	manyRooms    = 400
	manyMembers  = 10
	deflateRoom  = 500
	deflateSize  = 512
	stalledSize  = 2048
	stalledRate  = 60 // messages/s
	stalledTime  = 6 * time.Second
	stalledPairs = 5               // of the hub; of the others as many as there are rounds
	pacedSettle  = time.Second / 2 // after the joins
	idleRooms    = 80
	idleMembers  = 100 // 8,000 connections
	idleSettle   = 2 * time.Second
)

var sizes = []int{100, 300, 1000, 3000, 10000}

// A job measures one or more rows with one kind of server.
type job struct {
	rows  []string
	kinds func(kind) bool
	// rounds of a kind; nil: as many as there are.
	rounds func(k kind, rounds int) int
	run    func(*bench, kind, int) error
}

func notJSON(k kind) bool  { return k.name != "hub-json" }
func noBatch(k kind) bool  { return notJSON(k) && k.name != "floor-batched" }
func deflates(k kind) bool { return !k.floor && notJSON(k) }

var jobs = []job{
	{rows: []string{rowSingle, rowOutstanding, rowJSON, rowAllocs}, run: (*bench).runOneRoom},
	{rows: []string{rowRooms}, kinds: notJSON, run: (*bench).runRooms},
	{rows: []string{rowDeflate}, kinds: deflates, run: (*bench).runDeflate},
	{rows: []string{rowStalled}, kinds: deflates, run: (*bench).runStalled,
		rounds: func(k kind, rounds int) int {
			if k.name == "hub" {
				return max(stalledPairs, rounds)
			}
			return rounds
		}},
	{rows: []string{rowIdle}, kinds: noBatch, run: (*bench).runIdle},
	{rows: []string{rowIdleRooms}, kinds: func(k kind) bool { return k.name == "hub" }, run: (*bench).runIdleRooms},
	{rows: []string{rowSizes}, kinds: func(k kind) bool { return k.name == "hub" }, run: (*bench).runSizes},
	{rows: []string{rowDurable}, kinds: func(k kind) bool { return k.name == "hub" }, run: (*bench).runDurable},
}

// bench is one run.
type bench struct {
	command  string // as it was typed
	only     *regexp.Regexp
	all      bool // rows and servers
	servers  []string
	rounds   int
	time     time.Duration // of a measurement
	profiles string        // folder for profiles of the servers, "" for none
	samples  samples
	failures []failure
}

type failure struct {
	Rows  []string
	Kind  string
	Round int
	Err   string
}

// run does all jobs that are asked for: round by round all kinds in turn, each round beginning
// with another one.
func (b *bench) run() {
	for _, j := range jobs {
		if !slices.ContainsFunc(j.rows, b.only.MatchString) {
			continue
		}
		var run []kind
		most := 0
		for _, k := range kinds {
			if (j.kinds == nil || j.kinds(k)) && (len(b.servers) == 0 || slices.Contains(b.servers, k.name)) {
				run = append(run, k)
				most = max(most, j.roundsOf(k, b.rounds))
			}
		}
		for round := range most {
			for i := range run {
				k := run[(i+round)%len(run)]
				if round >= j.roundsOf(k, b.rounds) {
					continue
				}
				progress("%s: %s, round %d", strings.Join(j.rows, ", "), k.name, round+1)
				if err := j.run(b, k, round); err != nil {
					progress("FAILED: %v", err)
					b.failures = append(b.failures, failure{j.rows, k.name, round + 1, err.Error()})
				}
			}
		}
	}
}

func (j job) roundsOf(k kind, rounds int) int {
	if j.rounds == nil {
		return rounds
	}
	return j.rounds(k, rounds)
}

var started = time.Now()

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.0fs  %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, args...))
}

// warm runs before a measurement of d.
func warm(d time.Duration) int { return int(d.Milliseconds() / 5) }

// closed warms up and measures with so many messages under way.
func (b *bench) closed(p *pair, row string, round, outstanding int) (m measured, err error) {
	if _, err = p.run(phase{Outstanding: outstanding, Millis: warm(b.time)}); err != nil {
		return m, err
	}
	var s stats
	if b.profiles != "" {
		if err = p.server.ask("cpu "+b.profile(row, p.kind, round, "cpu"), &s, 10*time.Second); err != nil {
			return m, err
		}
	}
	if m, err = p.run(phase{Outstanding: outstanding, Millis: int(b.time.Milliseconds())}); err != nil {
		return m, err
	}
	if b.profiles != "" {
		err = p.server.ask("cpu", &s, 10*time.Second)
	}
	return m, err
}

// profile names the file of a profile.
func (b *bench) profile(row string, k kind, round int, what string) string {
	name := fmt.Sprintf("%s-%s-%d.%s.pprof", strings.ReplaceAll(row, "/", "-"), k.name, round+1, what)
	return filepath.Join(b.profiles, name)
}

// record keeps what every closed loop has to tell.
func (b *bench) record(row string, k kind, round int, m measured) {
	b.samples.add(row, k.name, mCPU, round, m.cpu())
	b.samples.add(row, k.name, mUser, round, m.user())
	b.samples.add(row, k.name, mRate, round, m.rate())
	b.samples.add(row, k.name, mMallocs, round, m.mallocs())
	b.samples.add(row, k.name, mPerMessage, round, float64(m.Mallocs)/float64(m.Messages))
	b.samples.add(row, k.name, mBytes, round, float64(m.Bytes)/float64(m.Deliveries))
	b.samples.add(row, k.name, mOneOrder, round, oneIf(m.OneOrder))
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (b *bench) runOneRoom(k kind, round int) error {
	p, err := connect(k, loadConfig{Rooms: 1, Members: oneRoom, Size: smallSize})
	if err != nil {
		return err
	}
	defer p.stop()
	for _, w := range []struct {
		row         string
		outstanding int
	}{{rowSingle, 1}, {rowOutstanding, 64}} {
		m, err := b.closed(p, w.row, round, w.outstanding)
		if err != nil {
			return err
		}
		b.record(w.row, k, round, m)
	}
	return nil
}

func (b *bench) runRooms(k kind, round int) error {
	p, err := connect(k, loadConfig{Rooms: manyRooms, Members: manyMembers, Size: smallSize})
	if err != nil {
		return err
	}
	defer p.stop()
	m, err := b.closed(p, rowRooms, round, 64)
	if err != nil {
		return err
	}
	b.record(rowRooms, k, round, m)
	return nil
}

func (b *bench) runDeflate(k kind, round int) error {
	p, err := connect(k, loadConfig{Rooms: 1, Members: deflateRoom, Size: deflateSize, Deflate: true})
	if err != nil {
		return err
	}
	defer p.stop()
	m, err := b.closed(p, rowDeflate, round, 8)
	if err != nil {
		return err
	}
	b.record(rowDeflate, k, round, m)
	return nil
}

// runStalled measures a pair: without the member that does not read, and with it, the other
// way round in every second round.
func (b *bench) runStalled(k kind, round int) error {
	order := []bool{false, true}
	if round%2 == 1 {
		order = []bool{true, false}
	}
	for _, stalled := range order {
		m, err := b.paced(k, stalled)
		if err != nil {
			return err
		}
		p99, growth := mP99, mGrowth
		if stalled {
			p99, growth = mP99Stalled, mGrowthOne
			b.samples.add(rowStalled, k.name, mStalledGot, round, float64(m.StalledGot))
			b.samples.add(rowStalled, k.name, mStalledCut, round, oneIf(m.StalledCut))
		}
		b.samples.add(rowStalled, k.name, p99, round, float64(m.P99)/1e6)
		b.samples.add(rowStalled, k.name, growth, round, float64(m.RSS)/1024)
	}
	return nil
}

func (b *bench) paced(k kind, stalled bool) (m measured, err error) {
	p, err := connect(k, loadConfig{Rooms: 1, Members: oneRoom, Size: stalledSize, Stalled: stalled})
	if err != nil {
		return m, err
	}
	defer p.stop()
	time.Sleep(pacedSettle)
	return p.run(phase{PerSecond: stalledRate, Millis: int(stalledTime.Milliseconds())})
}

func (b *bench) runIdle(k kind, round int) error {
	const n = idleRooms * idleMembers
	p, err := connect(k, loadConfig{Rooms: idleRooms, Members: idleMembers, Size: smallSize, Silent: true})
	if err != nil {
		return err
	}
	defer p.stop()
	time.Sleep(idleSettle)
	var s stats
	if err := p.server.ask("stats", &s, 10*time.Second); err != nil {
		return err
	}
	b.samples.add(rowIdle, k.name, mRSS, round, float64(s.RSS-p.before.RSS)/1024/n)
	b.samples.add(rowIdle, k.name, mGoroutines, round, float64(s.Goroutines-p.before.Goroutines)/n)
	if err := p.server.ask("free", &s, 20*time.Second); err != nil {
		return err
	}
	b.samples.add(rowIdle, k.name, mRSSFreed, round, float64(s.RSS-p.before.RSS)/1024/n)
	if b.profiles != "" {
		return p.server.ask("heap "+b.profile(rowIdle, k, round, "heap"), &s, 10*time.Second)
	}
	return nil
}

// runSizes measures the floor and k at each size, one right after the other.
func (b *bench) runSizes(k kind, round int) error {
	floor, _ := kindNamed("floor")
	for _, size := range sizes {
		pairOf := []kind{floor, k}
		if round%2 == 1 {
			slices.Reverse(pairOf)
		}
		for _, k := range pairOf {
			m, err := b.oneSize(k, size, round)
			if err != nil {
				return fmt.Errorf("%d members: %w", size, err)
			}
			b.record(sizeRow(size), k, round, m)
		}
	}
	return nil
}

func (b *bench) oneSize(k kind, size, round int) (m measured, err error) {
	p, err := connect(k, loadConfig{Rooms: 1, Members: size, Size: smallSize})
	if err != nil {
		return m, err
	}
	defer p.stop()
	return b.closed(p, sizeRow(size), round, 1)
}

func sizeRow(size int) string { return fmt.Sprintf("%s/%d", rowSizes, size) }

func (b *bench) runIdleRooms(k kind, round int) error {
	config := idleRoomsConfig{Rooms: 10000}
	if b.profiles != "" {
		config.Profile = b.profile(rowIdleRooms, k, round, "heap")
	}
	c, err := startChild("rooms", config)
	if err != nil {
		return err
	}
	defer c.stop()
	var r idleRoomsResult
	if err := c.answer(&r, 2*time.Minute); err != nil {
		return err
	}
	b.samples.add(rowIdleRooms, k.name, mRoomEmpty, round, r.Empty)
	b.samples.add(rowIdleRooms, k.name, mRoomStack, round, r.Stack)
	b.samples.add(rowIdleRooms, k.name, mRoomLive, round, r.Live)
	b.samples.add(rowIdleRooms, k.name, mRoomKept, round, r.Kept)
	b.samples.add(rowIdleRooms, k.name, mAway, round, r.Away)
	b.samples.add(rowIdleRooms, k.name, mAwayKept, round, r.AwayKept)
	b.samples.add(rowIdleRooms, k.name, mGoroutines, round, r.Goroutines)
	return nil
}
