package sqlitebroker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

func message(n int) *broker.Message {
	return &broker.Message{
		Room: "lobby", ID: fmt.Sprint("id-", n), From: broker.Member{User: "alice"}, Kind: broker.KindText,
		Data: fmt.Appendf(nil, "%d %s", n, strings.Repeat("x", 2000)),
	}
}

// publishUntilRefused returns what was acked and the first error.
func publishUntilRefused(t *testing.T, b *Broker, from int) (list []broker.Receipt, err error) {
	t.Helper()
	for n := from; n < from+100_000; n++ {
		r, err := b.Publish(ctx, message(n))
		if err != nil {
			return list, err
		}
		list = append(list, r)
	}
	require.Fail(t, "no publish was refused")
	return nil, nil
}

// holds checks that the room has just the messages of list, the first of which is message(0).
func holds(t *testing.T, b *Broker, list []broker.Receipt) {
	t.Helper()
	p, err := b.Since(ctx, "lobby", broker.Cursor{}, 1_000_000)
	require.NoError(t, err)
	require.Equal(t, broker.Recovered, p.Verdict)
	require.Len(t, p.Messages, len(list), "messages")
	for i, m := range p.Messages {
		require.Equal(t, list[i].Cursor, m.Cursor, "cursor of message %d", i)
		require.Equal(t, message(i).Data, m.Data, "data of message %d", i)
	}
	if n := len(list); n > 0 {
		head, err := b.Head(ctx, "lobby")
		require.NoError(t, err)
		require.Equal(t, list[n-1].Cursor, head, "head")
	}
}

// refusing checks that b takes nothing, hands nothing out and serves what it has.
func refusing(t *testing.T, b *Broker, s broker.Subscription, list []broker.Receipt) {
	t.Helper()
	for n := range 3 {
		_, err := b.Publish(ctx, message(len(list)))
		require.Error(t, err, "publish %d", n)
	}
	r, err := b.Publish(ctx, message(0))
	require.NoError(t, err, "a repeat")
	require.Equal(t, list[0].Cursor, r.Cursor, "a repeat")
	holds(t, b, list)
	got, err := s.Take(nil, 1_000_000)
	require.NoError(t, err)
	require.Len(t, got, len(list), "events")
	late, err := b.Subscribe(ctx, "lobby")
	require.NoError(t, err)
	require.Equal(t, list[len(list)-1].Cursor, late.Head(), "head of a subscription")
	late.Close()
}

var (
	keepMuch  = WithRoomBytes(1 << 30)
	muchWaits = WithWaiting(1_000_000, 1<<30)
)

// At SQLite's bound of pages a publish is refused and was not kept; with more of them it goes on.
func TestFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	b := openTest(t, path, keepAll, keepMuch, muchWaits, func(o *options) { o.maxPages = 100 })
	s, err := b.Subscribe(ctx, "lobby")
	require.NoError(t, err)
	list, err := publishUntilRefused(t, b, 0)
	require.ErrorIs(t, err, broker.ErrBusy)
	require.Equal(t, codeFull, code(err), "%v", err)
	require.Greater(t, len(list), 50)
	refusing(t, b, s, list)

	var more error
	require.NoError(t, b.writer.do(ctx, func() {
		_, more = b.writer.conn.ExecContext(ctx, "PRAGMA max_page_count = 1000")
	}))
	require.NoError(t, more)
	for range 20 {
		r, err := b.Publish(ctx, message(len(list)))
		require.NoError(t, err)
		require.False(t, r.Duplicate)
		list = append(list, r)
	}
	holds(t, b, list)
	require.NoError(t, b.Close())
	holds(t, openTest(t, path, keepAll, keepMuch), list)
}

// A group that fails takes none of its messages, and a room that it would have made is not there.
func TestFullGroup(t *testing.T) {
	b := openTest(t, filepath.Join(t.TempDir(), "chat.db"), keepAll, keepMuch, func(o *options) { o.maxPages = 30 })
	_, err := publishUntilRefused(t, b, 0)
	require.ErrorIs(t, err, broker.ErrBusy)
	var group []*request
	for n := range 10 {
		m := message(n)
		m.Room = "other"
		group = append(group, &request{msg: *m, size: size(m), once: true, key: newDedupKey(b.id, m), done: make(chan struct{})})
	}
	group = append(group, &request{msg: group[0].msg, size: group[0].size, once: true, key: group[0].key, done: make(chan struct{})})
	for _, r := range group {
		r.place, err = b.local.Admit(ctx, &r.msg)
		require.NoError(t, err)
	}
	require.NoError(t, b.writer.do(ctx, func() { // all are in one group
		for _, r := range group {
			b.writer.requests <- r
		}
	}))
	for i, r := range group {
		<-r.done
		require.ErrorIs(t, r.err, broker.ErrBusy, "publish %d", i)
	}
	head, err := b.Head(ctx, "other")
	require.NoError(t, err)
	require.Zero(t, head.Seq)
	s, err := b.Subscribe(ctx, "other")
	require.NoError(t, err)
	require.Equal(t, head, s.Head())
}

// What is no file of this package is told, and not touched.
func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	other := filepath.Join(dir, "other.db")
	c := new(conn)
	require.NoError(t, c.open(ctx, other, "CREATE TABLE t (a)"))
	require.NoError(t, c.close())
	newer := filepath.Join(dir, "newer.db")
	require.NoError(t, openTest(t, newer).Close())
	c = new(conn)
	require.NoError(t, c.open(ctx, newer, "PRAGMA user_version = 7"))
	require.NoError(t, c.close())

	for name, test := range map[string]struct {
		path string
		is   error
		text string
	}{
		"empty path":    {"", nil, "path of a file"},
		"memory":        {":memory:", nil, "path of a file"},
		"uri":           {"file:chat.db", nil, "path of a file"},
		"no folder":     {filepath.Join(dir, "none", "chat.db"), os.ErrNotExist, "none"},
		"a folder":      {dir, ErrForeign, "no regular file"},
		"text":          {file("text", []byte(strings.Repeat("no database\n", 1000))), ErrForeign, "text"},
		"short text":    {file("short", []byte("no")), ErrForeign, "short"},
		"another's":     {other, ErrForeign, "other.db"},
		"newer version": {newer, ErrNewer, "version 7, this program knows up to 1"},
	} {
		t.Run(name, func(t *testing.T) {
			before, _ := os.ReadFile(test.path)
			b, err := Open(ctx, test.path)
			require.Error(t, err)
			require.Nil(t, b)
			if test.is != nil {
				require.ErrorIs(t, err, test.is)
			}
			require.ErrorContains(t, err, test.text)
			require.Equal(t, 1, strings.Count(err.Error(), "sqlitebroker: "), err)
			require.NoFileExists(t, dir+"-lock")
			after, _ := os.ReadFile(test.path)
			require.Equal(t, before, after, "the file")
			t.Log(err)
		})
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err := Open(ended, filepath.Join(dir, "chat.db"))
	require.ErrorIs(t, err, context.Canceled)
	openTest(t, filepath.Join(dir, "chat.db")) // nothing is left locked
}

// A damaged file never panics, and what is acked on it is there.
func TestCorrupt(t *testing.T) {
	source := filepath.Join(t.TempDir(), "chat.db")
	b := openTest(t, source, keepAll, keepMuch)
	for n := range 300 {
		_, err := b.Publish(ctx, message(n))
		require.NoError(t, err)
		other := message(n)
		other.Room = fmt.Sprint("room-", n)
		_, err = b.Publish(ctx, other)
		require.NoError(t, err)
	}
	require.NoError(t, b.Close())
	good, err := os.ReadFile(source)
	require.NoError(t, err)

	damages := map[string]func(rnd *rand.Rand, p []byte) []byte{
		"truncated": func(rnd *rand.Rand, p []byte) []byte { return p[:rnd.IntN(len(p))] },
		"a page of noise": func(rnd *rand.Rand, p []byte) []byte {
			at := rnd.IntN(len(p)/4096) * 4096
			for i := range 4096 {
				p[at+i] = byte(rnd.Uint32())
			}
			return p
		},
		"many pages of zeros": func(rnd *rand.Rand, p []byte) []byte {
			for at := 4096; at < len(p); at += 4096 {
				if rnd.IntN(2) == 0 {
					clear(p[at : at+4096])
				}
			}
			return p
		},
		"flipped bits": func(rnd *rand.Rand, p []byte) []byte {
			for range 2000 {
				p[100+rnd.IntN(len(p)-100)] ^= 1 << rnd.IntN(8)
			}
			return p
		},
		"the middle": func(_ *rand.Rand, p []byte) []byte {
			for i := len(p) / 3; i < 2*len(p)/3; i++ {
				p[i] = 0xff
			}
			return p
		},
	}
	met := make(map[string]int)
	for what, damage := range damages {
		for seed := range uint64(8) {
			path := filepath.Join(t.TempDir(), "chat.db")
			require.NoError(t, os.WriteFile(path, damage(rand.New(rand.NewPCG(1, seed)), append([]byte(nil), good...)), 0o600))
			met[what+": "+useDamaged(t, path)]++
		}
	}
	for what, n := range met {
		t.Logf("%s: %d", what, n)
	}
	require.Equal(t, 8, met["the middle: refused"])
}

// useDamaged does everything on a damaged file, and checks that what is acked can be read.
func useDamaged(t *testing.T, path string) string {
	b, err := Open(ctx, path, keepAll, keepMuch)
	if err != nil {
		require.ErrorIs(t, err, ErrDamaged)
		return "not opened: " + err.Error()[strings.Index(err.Error(), "chat.db"):]
	}
	defer b.Close()
	outcome := "unnoticed"
	note := func(err error) bool {
		if err != nil {
			outcome = "refused"
		}
		return err == nil
	}
	for n := range 20 {
		for _, room := range []string{"lobby", fmt.Sprint("room-", n*15), fmt.Sprint("new-", n)} {
			m := message(1000 + n)
			m.Room = room
			r, err := b.Publish(ctx, m)
			if !note(err) {
				require.False(t, errors.Is(err, context.DeadlineExceeded))
				continue
			}
			p, err := b.Before(ctx, room, r.Cursor.Seq+1, 1)
			require.NoError(t, err, "to read what was acked")
			require.Equal(t, m.Data, p.Messages[0].Data, "what was acked")
			_, err = b.Since(ctx, room, broker.Cursor{}, 1_000_000)
			note(err)
			s, err := b.Subscribe(ctx, room)
			if note(err) {
				s.Close()
			}
		}
	}
	_ = b.writer.do(ctx, b.writer.sweep)
	return outcome
}

// A path may have anything in it that means something in a URI, or be a link.
func TestPaths(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a b?mode=ro#c%20d&x.db", "ü.db", "100%.db"} {
		b := openTest(t, filepath.Join(dir, name))
		_, err := b.Publish(ctx, message(0))
		require.NoError(t, err)
		require.NoError(t, b.Close())
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.NotZero(t, info.Size())
	}
	path, link := filepath.Join(dir, "chat.db"), filepath.Join(dir, "link.db")
	require.NoError(t, os.Symlink(path, link))
	openTest(t, path)
	for _, p := range []string{path, link, filepath.Join(dir, ".", "chat.db")} {
		_, err := Open(ctx, p)
		require.ErrorIs(t, err, ErrInUse)
	}
}

// Who resumes is told of a message that is damaged or missing, and gets the others.
func TestDamagedMessage(t *testing.T) {
	b := openTest(t, filepath.Join(t.TempDir(), "chat.db"))
	list := publishN(t, b, "lobby", 9, 10)
	exec := func(text string) {
		var err error
		onWriter(t, b, func(w *writer) { _, err = w.conn.ExecContext(ctx, text) })
		require.NoError(t, err)
	}
	exec("UPDATE messages SET data = 'hello' WHERE seq = 4")
	exec("UPDATE messages SET time = time + 1 WHERE seq = 5")
	exec("DELETE FROM messages WHERE seq = 8")
	seqs := func(p broker.Page) (all []uint64) {
		for _, m := range p.Messages {
			all = append(all, m.Cursor.Seq)
		}
		return all
	}
	want := []struct {
		verdict broker.Verdict
		gap     broker.GapBounds
		seqs    []uint64
		more    bool
	}{
		{broker.Recovered, broker.GapBounds{}, []uint64{1, 2, 3}, true},
		{broker.Gap, broker.GapBounds{After: 3, Before: 6, Missed: 2}, []uint64{6, 7}, true},
		{broker.Gap, broker.GapBounds{After: 7, Before: 9, Missed: 1}, []uint64{9}, false},
		{broker.Recovered, broker.GapBounds{}, nil, false},
	}
	var next broker.Cursor
	for i, w := range want {
		p, err := b.Since(ctx, "lobby", next, 100)
		require.NoError(t, err)
		require.Equal(t, w.verdict, p.Verdict, "verdict of page %d", i)
		require.Equal(t, w.gap, p.Gap, "gap of page %d", i)
		require.Equal(t, w.seqs, seqs(p), "messages of page %d", i)
		require.Equal(t, w.more, p.More, "more after page %d", i)
		next = p.Next
	}
	require.Equal(t, list[8].Cursor, next)
	p, err := b.Since(ctx, "lobby", list[7].Cursor, 100)
	require.NoError(t, err)
	require.Equal(t, []uint64{9}, seqs(p), "after the message that is missing")
	p, err = b.Before(ctx, "lobby", 0, 100)
	require.NoError(t, err)
	require.Equal(t, []uint64{1, 2, 3, 6, 7, 9}, seqs(p))

	exec("UPDATE messages SET tag = tag + 1 WHERE seq = 9")
	_, err = b.Head(ctx, "lobby")
	require.ErrorIs(t, err, ErrDamaged, "a head")
	onWriter(t, b, func(w *writer) { clear(w.states); w.used.Init() })
	_, err = b.Publish(ctx, message(0))
	require.ErrorIs(t, err, ErrDamaged, "a publish after a head that is damaged")
	other := message(0)
	other.Room = "other"
	_, err = b.Publish(ctx, other)
	require.ErrorIs(t, err, ErrDamaged, "a publish into another room")
}
