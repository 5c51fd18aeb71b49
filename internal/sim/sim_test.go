package sim

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seeds = flag.Uint64("seeds", 0, "how many seeds TestSeeds runs; 0: 300, or 60 with the race detector")
	seed  = flag.Uint64("seed", 0, "run this seed alone, and print its plan")
	stop  = flag.Bool("stop", false, "begin no other seed once one has failed")
)

// raced says that this is built with the race detector, with which a run takes some ten times as long.
var raced bool

// simulate runs one plan and returns what was wrong.
func simulate(t *testing.T, p *plan) (problems []string) {
	synctest.Test(t, func(*testing.T) {
		w := newWorld(p)
		w.run()
		problems = w.problems
	})
	return problems
}

// Each seed is a run of its own; what it decides stands in its plan.
func TestSeeds(t *testing.T) {
	first, last := uint64(1), *seeds
	switch {
	case *seed > 0:
		first, last = *seed, *seed
	case last == 0 && raced:
		last = 60
	case last == 0:
		last = 300
	}
	start := time.Now()
	t.Cleanup(func() { // when all runs are over
		t.Logf("%d seeds in %v on %d processors\n%s", last-first+1, time.Since(start).Round(time.Millisecond), runtime.GOMAXPROCS(0), happened())
		if *seed == 0 && last >= 300 && !t.Failed() {
			covered(t)
		}
	})
	var failed atomic.Bool
	for n := first; n <= last; n++ {
		t.Run(fmt.Sprint("seed=", n), func(t *testing.T) {
			t.Parallel()
			if failed.Load() && *stop {
				return
			}
			p := newPlan(n)
			problems := simulate(t, p)
			if len(problems) > 0 {
				failed.Store(true)
				t.Errorf("%s\nreplay: go test ./internal/sim -run TestSeeds -seed %d\n%v", strings.Join(problems[:min(len(problems), 20)], "\n"), n, p)
			} else if *seed > 0 {
				t.Logf("%v", p)
			}
		})
	}
}

// covered wants everything to have happened that the runs are about.
func covered(t *testing.T) {
	must := []string{
		"verdict new", "verdict recovered", "verdict gap", "verdict reset", "reset told live", "gap", "gap told in plain",
		"subscription lost messages", "end subscriptions", "new epoch", "new epoch live", "lose tail", "slow engine",
		"restart", "drain", "drain cut short", "kill", "unacked kept", "unacked lost", "close room", "left room by the service",
		"cut at a byte", "cut at a time", "stalled", "half open", "abandoned", "twin", "slow reader", "slow caller", "long absence",
		"given up as dead", "given up as too old", "given up by the next program", "publish repeated", "acked as a duplicate", "duplicate answered", "answer of the broker lost",
		"publish timed out", "publish cut short", "publish failed", "broker busy", "broker full", "presence failed", "history failed",
		"error rate", "error busy", "error unavailable", "error out_of_order", "error draining", "error not_in_room",
		"close 1000", "close 1001", "close 1006", "close 1011", "close 1012", "close 1013", "handshake 503",
		"said again by the next program", "service repeats",
		"hubclient: disconnected", "hubclient: lagged", "hubclient: uncertain", "hubclient: refused not_in_room",
	}
	if os.Getenv("HUB_NO_FASTPATH") == "" {
		must = append(must, "fast path wrote short")
	}
	countsMu.Lock()
	defer countsMu.Unlock()
	rare := []string{"given up as dead", "given up as too old", "given up by the next program", "left room by the service", "drain cut short", "error draining"}
	for _, what := range must {
		if counts[what] == 0 && (*seeds >= 1000 || !slices.Contains(rare, what)) { // once in 25 seeds or so
			t.Errorf("in no run: %s", what)
		}
	}
}

// happened lists what happened, and how often.
func happened() string {
	countsMu.Lock()
	defer countsMu.Unlock()
	var lines []string
	for what, n := range counts {
		lines = append(lines, fmt.Sprintf("%8d %s", n, what))
	}
	sort.Slice(lines, func(a, b int) bool { return lines[a][9:] < lines[b][9:] })
	return strings.Join(lines, "\n")
}
