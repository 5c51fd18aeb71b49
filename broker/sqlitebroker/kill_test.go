package sqlitebroker

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

// victimVariable tells the test binary to be the process that is killed, and on which file.
const victimVariable = "HUB_TEST_VICTIM"

var keepAll = WithRetention(1_000_000, 0)

func victimMessage(run, publisher string, n int) *broker.Message {
	return &broker.Message{
		Room: "room-" + publisher[:1], From: broker.Member{Client: "c", User: "user-" + publisher}, ID: fmt.Sprint(run, "-", n),
		Kind: broker.KindText, Data: fmt.Appendf(nil, "%s %s %d", run, publisher, n),
	}
}

// victim publishes and tells what was acked, for ever.
func victim(path string) {
	b, err := Open(ctx, path, keepAll)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	run := os.Args[len(os.Args)-1]
	for i := range 32 {
		publisher := fmt.Sprintf("%c%d", 'a'+i%3, i)
		go func() {
			for n := 0; ; n++ {
				r, err := b.Publish(ctx, victimMessage(run, publisher, n))
				if err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				fmt.Printf("%s %d %s\n", publisher, n, r.Cursor) // one write
			}
		}()
	}
	select {}
}

type acked struct {
	message *broker.Message
	cursor  string
}

// runVictim lets a victim publish until it has acked so many, and kills it.
func runVictim(t *testing.T, path, run string, acks int) (list []acked) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], run)
	cmd.Env = append(os.Environ(), victimVariable+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var publisher, cursor string
		var n int
		if _, err := fmt.Sscan(lines.Text(), &publisher, &n, &cursor); err != nil {
			require.False(t, strings.HasPrefix(lines.Text(), "error"), lines.Text())
			continue // the line it was killed in
		}
		list = append(list, acked{victimMessage(run, publisher, n), cursor})
		if len(list) == acks {
			require.NoError(t, cmd.Process.Kill(), "SIGKILL")
		}
	}
	require.Error(t, cmd.Wait(), "a process that was killed")
	require.GreaterOrEqual(t, len(list), acks)
	return list
}

// What a process has acked before it was killed is there, once, and its ids are known.
func TestSurvivesKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	var all []acked
	known := make(map[string]string) // data to cursor, of all that was ever found in the file
	for run := range 4 {
		list := runVictim(t, path, fmt.Sprint("run", run), 100+1500*run)
		all = append(all, list...)

		b := openTest(t, path, keepAll)
		found := make(map[string]string)
		for _, room := range []string{"room-a", "room-b", "room-c"} {
			p, err := b.Since(ctx, room, broker.Cursor{}, 1_000_000)
			require.NoError(t, err)
			require.Equal(t, broker.Recovered, p.Verdict, "verdict in %s", room)
			prev := uint64(0)
			for _, m := range p.Messages {
				require.Empty(t, found[string(m.Data)], "kept twice: %s", m.Data)
				found[string(m.Data)] = m.Cursor.String()
				require.Equal(t, prev, m.Prev, "chain of %s", room)
				prev = m.Cursor.Seq
			}
		}
		for data, cursor := range known {
			require.Equal(t, cursor, found[data], "what was there before: %s", data)
		}
		for _, a := range all {
			require.Equal(t, a.cursor, found[string(a.message.Data)], "acked: %s", a.message.Data)
		}
		for _, a := range list {
			r, err := b.Publish(ctx, a.message)
			require.NoError(t, err)
			require.True(t, r.Duplicate, "repeat of %s", a.message.Data)
			require.Equal(t, a.cursor, r.Cursor.String(), "repeat of %s", a.message.Data)
		}
		// What was under way has been kept whole, with its id, or not at all.
		for publisher := range 32 {
			name := fmt.Sprintf("%c%d", 'a'+publisher%3, publisher)
			for n := 0; ; n++ {
				m := victimMessage(fmt.Sprint("run", run), name, n)
				cursor, kept := found[string(m.Data)]
				r, err := b.Publish(ctx, m)
				require.NoError(t, err)
				require.Equal(t, kept, r.Duplicate, "duplicate: %s", m.Data)
				if found[string(m.Data)] = r.Cursor.String(); !kept {
					break
				}
				require.Equal(t, cursor, r.Cursor.String(), "cursor of %s", m.Data)
			}
		}
		known = found
		require.NoError(t, b.Close())
	}
}

// A process that has the file keeps others off, until it is killed.
func TestInUseByProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "run")
	cmd.Env = append(os.Environ(), victimVariable+"="+path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, "an ack")
	_, err = Open(ctx, path)
	require.ErrorIs(t, err, ErrInUse)
	require.ErrorContains(t, err, path)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	start := time.Now()
	openTest(t, path)
	t.Logf("opened after %v", time.Since(start))
}
