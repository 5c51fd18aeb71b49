package sim

import (
	"flag"
	"fmt"
	"runtime"
	"sort"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chathub-go/hub/broker"
)

var (
	seeds = flag.Uint64("seeds", 300, "how many seeds TestSeeds runs")
	seed  = flag.Uint64("seed", 0, "run this seed alone, and print its plan")
)

// simulate runs one seed and returns what was wrong.
func simulate(t *testing.T, seed uint64, wrap func(broker.Broker) broker.Broker) (problems []string, p *plan) {
	p = newPlan(seed)
	synctest.Test(t, func(*testing.T) {
		w := newWorld(p, wrap)
		w.run()
		problems = w.problems
	})
	return problems, p
}

func TestSeeds(t *testing.T) {
	first, last := uint64(1), *seeds
	if *seed > 0 {
		first, last = *seed, *seed
	}
	for n := first; n <= last; n++ {
		t.Run(fmt.Sprint("seed=", n), func(t *testing.T) {
			t.Parallel()
			problems, p := simulate(t, n, nil)
			if *seed > 0 {
				t.Logf("%v", p)
			}
			if len(problems) > 0 {
				t.Errorf("replay: go test ./internal/sim -run TestSeeds -seed %d\n  %s", n, strings.Join(problems[:min(len(problems), 20)], "\n  "))
			}
		})
	}
	start := time.Now()
	t.Cleanup(func() {
		t.Logf("%d seeds in %v on %d processors\n%s", last-first+1, time.Since(start).Round(time.Millisecond), runtime.GOMAXPROCS(0), coverage())
	})
}

func coverage() string {
	countsMu.Lock()
	defer countsMu.Unlock()
	var lines []string
	for what, n := range counts {
		lines = append(lines, fmt.Sprintf("%8d %s", n, what))
	}
	sort.Slice(lines, func(a, b int) bool { return lines[a][9:] < lines[b][9:] })
	return strings.Join(lines, "\n")
}
