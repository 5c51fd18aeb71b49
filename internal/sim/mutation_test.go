package sim

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var mutate = flag.Bool("mutate", false, "run TestMutations, which builds the module a dozen times")

// A mutation breaks the hub or hubclient, in one place.
type mutation struct {
	name, file string
	old, new   string // old is there exactly once
}

var mutations = []mutation{
	{"live before it has caught up", "internal/room/member.go",
		"if len(l.tail) == 0 || at.Seq < l.tail[0].m.Prev {\n\t\treturn nil, nil, false",
		"if len(l.tail) == 0 || at.Seq < l.tail[0].m.Prev {\n\t\treturn nil, nil, true"},
	{"the rest of the first page is left out", "internal/room/arrival.go",
		"if n < len(frames) {\n\t\tj.At", "if n < 0 {\n\t\tj.At"},
	{"the part that came with a refusal to go live is left out", "internal/room/arrival.go", "a.send(ctx, answer.part)", "a.send(ctx, nil)"},
	{"reset is not told to who is there", "internal/room/loop.go", "l.Stream().gap(door, g, reset)", "l.Stream().gap(door, g, false)"},
	{"a slow policy drops without a word", "internal/room/encode.go",
		"return stream.(*Stream).gap(door, broker.GapBounds{After: after, Before: before, Missed: missed}, false)", "return nil"},
	{"two positions share a page of history", "internal/catchup/catchup.go",
		`key := fmt.Sprintf("since %s %s", after, room)`, `key := "since " + room`},
	{"what failed is acked", "client.go",
		"\treceipt, err := in.Room.publish(ctx, &m)\n\tif err != nil {", "\treceipt, err := in.Room.publish(ctx, &m)\n\tif err != nil && ctx.Err() == nil && !errors.Is(err, broker.ErrBusy) {"},
	{"order is not kept across refusals", "internal/gate/gate.go", "if g.ordered && err != nil && err.Retryable() {", "if false {"},
	{"a session makes nobody the same user", "client.go", "\t\tc.session = q.Session\n", ""},
	{"who left stays in the list", "internal/room/announce.go", "\tl.presence.want(who, absent)\n}\n\n// expire", "}\n\n// expire"},
	{"a failed announcement counts as done", "internal/room/announce.go", "\ta.done(r.batch, r.err)\n", "\ta.done(r.batch, nil)\n"},
	{"what did not fit is lost", "internal/wsconn/send.go", "range slices.Backward(rest) {", "range slices.Backward(rest[:0]) {"},
	{"what was begun is begun again", "internal/wsconn/send.go", "c.keepRest(rest[0].Bytes[n:], item", "c.keepRest(rest[0].Bytes, item"},
	{"drain before the welcome", "client.go", "case c.door == room.JSON && !entered:", "case c.door == room.JSON && !entered && conn == nil:"},
	{"hubclient: the cursor stands still", "hubclient/link.go", "\t\t\t\tc.moved(e)\n", ""},
	{"hubclient: what was under way is not sent again", "hubclient/outbox.go", "\t\t\tp.flying = false\n\t\t\to.doubtful++\n", "\t\t\to.doubtful++\n"},
	{"hubclient: what is refused is sent behind the others", "hubclient/outbox.go", "if p = o.held; p == nil {", "if p = nil; p == nil {"},
	{"hubclient: an ack moves the cursor", "hubclient/take.go",
		"\tc.outbox.landed(p, time.Now())\n\tp.maybe = time.Time{}\n\tr := Receipt",
		"\tc.outbox.landed(p, time.Now())\n\tp.maybe = time.Time{}\n\tif r := c.rooms[p.room]; r != nil && f.Cursor != \"\" {\n\t\tr.cursor, r.seq = f.Cursor, f.Seq\n\t}\n\tr := Receipt"},
	{"hubclient: other rooms are not joined again", "hubclient/take.go", "\tc.rejoin()\n", ""},
	{"hubclient: comes back without its cursor", "hubclient/run.go", "set(\"since\", since)", "set(\"since\", since[:0])"},
	{"hubclient: what is too old is sent again", "hubclient/outbox.go", "return w - min(w/4, time.Minute)", "return 100 * w"},
}

// Each of these mistakes in the hub and in hubclient is noticed by the simulation. The module is built with one file in the place of
// another (go test -overlay); nothing is written to it.
func TestMutations(t *testing.T) {
	if !*mutate {
		t.Skip("-mutate is not set")
	}
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			start := time.Now()
			file := filepath.Join(root, filepath.FromSlash(m.file))
			src, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, 1, strings.Count(string(src), m.old), "%s has this so many times: %s", m.file, m.old)
			dir := t.TempDir()
			mutant, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
			require.NoError(t, os.WriteFile(mutant, []byte(strings.Replace(string(src), m.old, m.new, 1)), 0o600))
			list, err := json.Marshal(map[string]map[string]string{"Replace": {file: mutant}})
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(overlay, list, 0o600))

			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "go", "test", "-overlay", overlay, "-run", "^TestSeeds$", "-timeout", "4m", "./internal/sim", "-seeds", "900", "-stop")
			cmd.Dir = root
			out, err := cmd.CombinedOutput()
			require.NoError(t, ctx.Err(), "it ran on for ever")
			noticed := strings.Contains(string(out), "replay: ") || strings.Contains(string(out), "TestSeeds/seed=")
			require.True(t, err != nil && noticed, "it was not noticed: %v\n%.3000s", err, out)
			first, _, _ := strings.Cut(string(out[max(strings.Index(string(out), "sim_test.go"), 0):]), "\n")
			t.Logf("%v: %.300s", time.Since(start).Round(time.Second/10), first)
		})
	}
}
