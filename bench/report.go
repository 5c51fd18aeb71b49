package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A report is what the samples of a run say.
type report struct {
	bench    *bench
	sections []section
}

func newReport(b *bench) *report { return &report{b, b.sections()} }

const (
	notesBegin = "<!-- notes -->"
	notesEnd   = "<!-- /notes -->"
)

// write writes the report to file and its charts beside it, and keeps the notes that file has.
func (r *report) write(file string) error {
	notes := "\nNone.\n"
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, after, ok := strings.Cut(string(old), notesBegin); ok {
		kept, _, ok := strings.Cut(after, notesEnd)
		if !ok {
			return fmt.Errorf("%s has a %s without its %s", file, notesBegin, notesEnd)
		}
		notes = kept
	}
	for _, s := range r.sections {
		if s.chart == nil {
			continue
		}
		svg := r.bench.draw(s)
		if err := os.WriteFile(filepath.Join(filepath.Dir(file), s.chart.file()), []byte(svg), 0o644); err != nil {
			return err
		}
	}
	var b strings.Builder
	b.WriteString("# Benchmarks\n\n")
	b.WriteString("Written by `bench/`; only the notes are written by hand. The hub beside the libraries that people would pick instead, and " +
		"beside the floor: what a broadcast costs without any library. Everything ran on one machine in one run, so ratios say more than " +
		"the figures do.\n\n")
	b.WriteString(r.machine())
	b.WriteString("\n## Figures to reach\n\n" + r.summary())
	b.WriteString("\n## Where the hub loses\n\n" + r.losses())
	b.WriteString("\n## Notes\n\n" + notesBegin + notes + notesEnd + "\n")
	b.WriteString("\n## The rows\n" + r.rows(true))
	b.WriteString("\n## What is compared\n\n" + r.compared())
	b.WriteString("\n## How it is measured\n\n" + howMeasured)
	return os.WriteFile(file, []byte(b.String()), 0o644)
}

// tables is what goes to the terminal.
func (r *report) tables() string {
	few := ""
	if r.bench.rounds < leastRounds {
		few = fmt.Sprintf("Fewer than %d rounds: an indication, no more.\n\n", leastRounds)
	}
	return r.rows(false) + "\n## Figures to reach\n\n" + few + r.summary() + "\n## Where the hub loses\n\n" + r.losses()
}

func (r *report) machine() string {
	var b strings.Builder
	b.WriteString("| | |\n|---|---|\n")
	line := func(name, value string) { fmt.Fprintf(&b, "| %s | %s |\n", name, value) }
	line("command", fmt.Sprintf("`cd bench && %s` (%d rounds, %v a measurement)", r.bench.command, r.bench.rounds, r.bench.time))
	line("machine", fmt.Sprintf("%s, %d cores, for server and load together", cpuModel(), runtime.NumCPU()))
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		line("kernel", unix.ByteSliceToString(u.Sysname[:])+" "+unix.ByteSliceToString(u.Release[:]))
	}
	line("Go", runtime.Version()+" "+runtime.GOOS+"/"+runtime.GOARCH)
	line("hub", revision())
	line("libraries", versions())
	return b.String()
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// revision is the commit that was measured, as far as git tells. What a run itself writes does
// not count as a change.
func revision() string {
	commit, err := exec.Command("git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "not in a git checkout"
	}
	text := "commit " + string(bytes.TrimSpace(commit))
	changes, err := exec.Command("git", "status", "--porcelain", "--", "..", ":!../docs").Output()
	if err != nil || len(bytes.TrimSpace(changes)) > 0 {
		text += ", with changes"
	}
	return text
}

func versions() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "not known"
	}
	compared := []string{"lxzan/gws", "gorilla/websocket", "olahol/melody", "nhooyr.io/websocket", "centrifugal/centrifuge"}
	var all []string
	for _, d := range info.Deps {
		if slices.ContainsFunc(compared, func(suffix string) bool { return strings.HasSuffix(d.Path, suffix) }) {
			all = append(all, strings.TrimPrefix(d.Path, "github.com/")+" "+d.Version)
		}
	}
	return strings.Join(all, ", ")
}

func verdict(reached bool) string {
	if reached {
		return "reached"
	}
	return "**not reached**"
}

func (r *report) summary() string {
	var b strings.Builder
	b.WriteString("| work | asked | seen, median (min to max) | |\n|---|---|---|---|\n")
	for _, s := range r.sections {
		for _, f := range s.figures {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", s.title, f.asked, f.seen, verdict(f.reached))
		}
	}
	for _, f := range r.bench.failures {
		fmt.Fprintf(&b, "| %s | | %s, round %d: %s | **failed** |\n", strings.Join(f.Rows, ", "), f.Kind, f.Round, oneLine(f.Err))
	}
	return b.String()
}

func oneLine(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}

func (r *report) rows(charts bool) string {
	var b strings.Builder
	for _, s := range r.sections {
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n", s.title, s.how)
		if charts {
			for _, f := range s.figures {
				fmt.Fprintf(&b, "- %s: %s, %s\n", f.asked, f.seen, verdict(f.reached))
			}
			b.WriteString("\n")
		}
		if s.chart != nil && charts {
			fmt.Fprintf(&b, "![%s](%s)\n\n", s.chart.title, s.chart.file())
		}
		if s.row == rowSizes {
			b.WriteString(r.bench.sizesTable())
			continue
		}
		b.WriteString(r.bench.table(s))
	}
	return b.String()
}

// table has a line for each kind that there are samples of.
func (b *bench) table(s section) string {
	var t strings.Builder
	t.WriteString("| |")
	for _, c := range s.columns {
		t.WriteString(" " + c.head + " |")
	}
	t.WriteString("\n|---|" + strings.Repeat("---|", len(s.columns)) + "\n")
	for _, k := range kinds {
		if s.kinds != nil && !s.kinds(k) {
			continue
		}
		var cells []string
		seen := false
		for _, c := range s.columns {
			v := b.samples.spread(s.row, k.name, c.metric)
			seen = seen || v.N > 0
			switch {
			case v.N == 0:
				cells = append(cells, "–")
			case c.metric == mOneOrder || c.metric == mStalledCut:
				cells = append(cells, yesNo(v.Min == 1))
			default:
				cells = append(cells, v.text(c.format))
			}
		}
		if seen {
			fmt.Fprintf(&t, "| %s | %s |\n", k.name, strings.Join(cells, " | "))
		}
	}
	return t.String()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (b *bench) sizesTable() string {
	var t strings.Builder
	t.WriteString("| members | floor, µs/delivery | hub, µs/delivery | hub ÷ floor |\n|---|---|---|---|\n")
	for _, size := range sizes {
		row := sizeRow(size)
		fmt.Fprintf(&t, "| %s | %s | %s | %s |\n", grouped(fmt.Sprint(size)), b.samples.spread(row, "floor", mCPU).text("%.2f"),
			b.samples.spread(row, "hub", mCPU).text("%.2f"), b.samples.ratio(row, "hub", mCPU, row, "floor", mCPU).text("%.2f"))
	}
	return t.String()
}

// comparisons are where a peer may be ahead.
var comparisons = []struct {
	row, metric, what, format string
	higher                    bool
}{
	{rowSingle, mCPU, "CPU for a delivery, µs, 1,000 members, one message at a time", "%.2f", false},
	{rowSingle, mRate, "deliveries/s there", "%.0f", true},
	{rowOutstanding, mCPU, "CPU for a delivery, µs, 1,000 members, 64 messages under way", "%.2f", false},
	{rowOutstanding, mRate, "deliveries/s there", "%.0f", true},
	{rowRooms, mCPU, "CPU for a delivery, µs, 400 rooms of 10", "%.2f", false},
	{rowRooms, mRate, "deliveries/s there", "%.0f", true},
	{rowDeflate, mCPU, "CPU for a delivery, µs, 500 members, compressed", "%.2f", false},
	{rowDeflate, mRate, "deliveries/s there", "%.0f", true},
	{rowDeflate, mBytes, "bytes for a delivery there", "%.0f", false},
	{rowStalled, mP99, "p99 in ms, 1,000 members that all read", "%.2f", false},
	{rowStalled, mP99Stalled, "p99 in ms beside a member that does not read", "%.2f", false},
	{rowStalled, mGrowthOne, "growth of RSS in KiB there", "%.0f", false},
	{rowIdle, mRSS, "RSS of a connection at rest, KiB", "%.1f", false},
	{rowIdle, mRSSFreed, "the same after debug.FreeOSMemory", "%.1f", false},
	{rowIdle, mGoroutines, "goroutines of a connection at rest", "%.1f", false},
	{rowSingle, mPerMessage, "allocations for a message, 1,000 members, one at a time", "%.1f", false},
	{rowOutstanding, mPerMessage, "allocations for a message, 64 under way", "%.1f", false},
}

// ahead tells whether peer is better than hub, by more than 1 %.
func ahead(peer, hub float64, higher bool) bool {
	if higher {
		return peer > hub*1.01
	}
	return peer < hub*0.99
}

// losses lists the figures that were not reached, and each measure by which a peer is ahead.
func (r *report) losses() string {
	var b strings.Builder
	compared := false // with a peer, or a figure
	for _, s := range r.sections {
		for _, f := range s.figures {
			compared = true
			if !f.reached {
				fmt.Fprintf(&b, "- %s: asked %s, seen %s.\n", s.title, f.asked, f.seen)
			}
		}
	}
	for _, c := range comparisons {
		hub := r.bench.samples.spread(c.row, "hub", c.metric)
		if hub.N == 0 {
			continue
		}
		var peers []string
		for _, k := range kinds {
			s := r.bench.samples.spread(c.row, k.name, c.metric)
			if !k.peer || s.N == 0 {
				continue
			}
			compared = true
			if !ahead(s.Median, hub.Median, c.higher) || fmt.Sprintf(c.format, s.Median) == fmt.Sprintf(c.format, hub.Median) {
				continue
			}
			text := k.name + " " + s.text(c.format)
			if s.Min <= hub.Max && hub.Min <= s.Max {
				text += ", which overlaps the hub's"
			}
			peers = append(peers, text)
		}
		if len(peers) > 0 {
			fmt.Fprintf(&b, "- %s: the hub %s; ahead are %s.\n", c.what, hub.text(c.format), strings.Join(peers, "; "))
		}
	}
	switch {
	case b.Len() > 0:
	case compared:
		return "Nowhere in this run.\n"
	default:
		return "Nothing was compared.\n"
	}
	return b.String()
}

func (r *report) compared() string {
	var b strings.Builder
	b.WriteString("Each as its users would write it, with the settings that were found fastest and that keep what it promises. Read limit " +
		"64 KiB and read buffers of 1 KiB where they can be set.\n\n| | |\n|---|---|\n")
	for _, k := range kinds {
		fmt.Fprintf(&b, "| %s | %s |\n", k.name, k.about)
	}
	return b.String()
}

const howMeasured = `- Server and load are separate processes on the same cores, over loopback TCP. The server has the runtime's defaults. The load is one
  thread with one epoll; it allocates nothing for a frame and reads what has come for a connection with one call.
- CPU is the server process's, user and system, from the operating system (getrusage), over exactly the deliveries of the measurement. The
  split into user and system is sampled by the kernel's tick, the sum is not. What the kernel does for the receiver of a loopback
  ` + "`write`" + ` is charged to the writer, alike for all.
- Each message is a different small JSON object of words. The load checks that every member gets every message exactly once, and for all but gws
  (which does not promise it) that all members of a room see one order. A mismatch fails the measurement.
- Rounds are interleaved: in each all kinds take turns, beginning with another one. A ratio is taken within a round; the median of the rounds counts.
- Warm-up is a fifth of a measurement before each.
- The floor bounds nothing, checks nothing and is blocked by one slow member: it is there to be compared with, not to be used.
`
