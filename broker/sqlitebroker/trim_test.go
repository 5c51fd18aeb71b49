package sqlitebroker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

// onWriter calls f on the writer's goroutine.
func onWriter(t *testing.T, b *Broker, f func(w *writer)) {
	t.Helper()
	require.NoError(t, b.writer.do(ctx, func() { f(b.writer) }))
}

// number is the first column of a query's first row.
func number(t *testing.T, b *Broker, query string) (n int64) {
	t.Helper()
	var err error
	onWriter(t, b, func(w *writer) { err = w.conn.QueryRowContext(ctx, query).Scan(&n) })
	require.NoError(t, err)
	return n
}

// bySweeps are options with which only the test sweeps.
func bySweeps(o *options) { o.sweepEvery = time.Hour }

func publishN(t *testing.T, b *Broker, room string, n, bytes int) (list []broker.Receipt) {
	t.Helper()
	for i := range n {
		r, err := b.Publish(ctx, &broker.Message{Room: room, ID: fmt.Sprint(i), Data: []byte(strings.Repeat("x", bytes))})
		require.NoError(t, err)
		list = append(list, r)
	}
	return list
}

func kept(t *testing.T, b *Broker, room string) []*broker.Message {
	t.Helper()
	p, err := b.Before(ctx, room, 0, 1_000_000)
	require.NoError(t, err)
	return p.Messages
}

// What is handed out is exact at each step; the file follows within its slack.
func TestRetentionByCount(t *testing.T) {
	b := openTest(t, filepath.Join(t.TempDir(), "chat.db"), WithRetention(40, 0), bySweeps)
	for i := range 200 {
		_, err := b.Publish(ctx, &broker.Message{Room: "lobby"})
		require.NoError(t, err)
		require.Len(t, kept(t, b, "lobby"), min(i+1, 40))
		require.LessOrEqual(t, number(t, b, "SELECT count(*) FROM messages"), int64(40+16), "rows")
	}
	// One room may keep more or less, at once.
	require.NoError(t, b.SetRetention("lobby", 10, 0))
	require.Len(t, kept(t, b, "lobby"), 10)
	messages, age := b.Retention("lobby")
	require.Equal(t, 10, messages)
	require.Zero(t, age)
	onWriter(t, b, (*writer).sweep)
	require.Equal(t, int64(10), number(t, b, "SELECT count(*) FROM messages"), "rows")
	require.NoError(t, b.SetRetention("lobby", 40, 0))
	require.Zero(t, number(t, b, "SELECT count(*) FROM retention"), "rows of retention")
	require.Len(t, kept(t, b, "lobby"), 10)
	require.NoError(t, b.SetRetention("none", 0, time.Minute))
	publishN(t, b, "none", 3, 1)
	require.Empty(t, kept(t, b, "none"))
}

func TestRetentionByBytes(t *testing.T) {
	const bound = 20_000
	b := openTest(t, filepath.Join(t.TempDir(), "chat.db"), WithRetention(1000, 0), WithRoomBytes(bound), bySweeps)
	var sizes []int64
	for i := range 300 {
		m := &broker.Message{Room: "lobby", Data: make([]byte, (i*7919)%3000)}
		_, err := b.Publish(ctx, m)
		require.NoError(t, err)
		sizes = append(sizes, size(m))
		want, sum := 0, int64(0)
		for want < len(sizes) && sum+sizes[len(sizes)-1-want] <= bound {
			sum += sizes[len(sizes)-1-want]
			want++
		}
		require.Len(t, kept(t, b, "lobby"), want, "messages after %d", i+1)
	}
	require.LessOrEqual(t, number(t, b, "SELECT sum(length(data) + 128) FROM messages"), int64(bound*5/4+3200), "bytes of rows")
	_, err := b.Publish(ctx, &broker.Message{Room: "lobby", Data: make([]byte, bound)})
	require.ErrorIs(t, err, broker.ErrTooLarge)
}

// Retention of one room's own is known after a restart, before anything is trimmed.
func TestRetentionRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	b := openTest(t, path, WithRetention(5, time.Millisecond), WithRooms(2))
	require.NoError(t, b.SetRetention("own", 1000, 0))
	publishN(t, b, "own", 50, 10)
	require.NoError(t, b.SetRetention("second", 1, 0))
	require.ErrorIs(t, b.SetRetention("third", 1, 0), broker.ErrBusy)
	require.NoError(t, b.Close())
	require.ErrorIs(t, b.SetRetention("own", 1, 0), broker.ErrClosed)
	b = openTest(t, path, WithRetention(5, time.Millisecond), WithRooms(2))
	onWriter(t, b, (*writer).sweep)
	require.Len(t, kept(t, b, "own"), 50)
}

// A silent room's messages leave the file when they are too old, and the file gets smaller.
func TestSweep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	b := openTest(t, path, WithRetention(1000, time.Hour), WithDedup(time.Hour, 1000), bySweeps)
	for room := range 2 * sweepRooms {
		publishN(t, b, fmt.Sprint("room-", room), 4, 5000)
	}
	require.Equal(t, int64(1000), number(t, b, "SELECT count(*) FROM (SELECT n FROM ids ORDER BY n DESC LIMIT 1000)"))
	head, err := b.Head(ctx, "room-7")
	require.NoError(t, err)
	pages := number(t, b, "PRAGMA page_count")
	require.Greater(t, pages, int64(1000))
	onWriter(t, b, func(w *writer) { // two hours pass
		b.ahead += 2 * time.Hour
	})
	require.Empty(t, kept(t, b, "room-7"), "of what is too old")
	onWriter(t, b, (*writer).sweep)
	require.Equal(t, int64(4*sweepRooms), number(t, b, "SELECT count(*) FROM messages"), "rows after a sweep of half the rooms")
	for range 20 {
		onWriter(t, b, (*writer).sweep)
	}
	require.Zero(t, number(t, b, "SELECT count(*) FROM messages"), "rows")
	require.Zero(t, number(t, b, "SELECT count(*) FROM ids"), "rows of ids")
	require.LessOrEqual(t, number(t, b, "PRAGMA page_count"), int64(vacuumFrom+64), "pages of %d", pages)
	again, err := b.Head(ctx, "room-7")
	require.NoError(t, err)
	require.Equal(t, head, again)
	require.NoError(t, b.Close())
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.LessOrEqual(t, info.Size(), int64(vacuumFrom+64)*4096)
	t.Logf("%d pages, then %d bytes", pages, info.Size())
}

// A room at its bounds stays as large as it is, and so does the file.
func TestFileBounded(t *testing.T) {
	path := filepath.Join(fastDir(t), "chat.db")
	b := openTest(t, path, WithRetention(100, 0), WithDedup(time.Hour, 500), bySweeps)
	var pages [4]int64
	n := 0
	for i := range pages {
		for range 2000 {
			n++
			_, err := b.Publish(ctx, &broker.Message{Room: "lobby", ID: fmt.Sprint(n), Data: make([]byte, 1000)})
			require.NoError(t, err)
		}
		pages[i] = number(t, b, "PRAGMA page_count")
	}
	t.Log(pages)
	require.LessOrEqual(t, pages[3], pages[0]*11/10, "pages: %v", pages)
	wal, err := os.Stat(path + "-wal")
	require.NoError(t, err)
	require.LessOrEqual(t, wal.Size(), int64(17<<20), "bytes of the log")
	require.LessOrEqual(t, number(t, b, "SELECT count(*) FROM ids"), int64(500+trimIDs+1), "rows of ids")
}

// setClock makes the file one of a broker whose clock was ahead by d.
func setClock(t *testing.T, path string, d time.Duration, opts ...Option) (list []broker.Receipt) {
	t.Helper()
	b := openTest(t, path, opts...)
	onWriter(t, b, func(*writer) { b.ahead += d })
	list = publishN(t, b, "lobby", 3, 10)
	require.NoError(t, b.Close())
	return list
}

// A clock that was years ahead, and is right again, makes nothing live for years.
func TestClockBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	opts := []Option{WithRetention(100, time.Hour), WithDedup(time.Hour, 100), bySweeps}
	list := setClock(t, path, 24*365*time.Hour, opts...)
	b := openTest(t, path, opts...)
	require.Len(t, kept(t, b, "lobby"), 3)
	again, err := b.Publish(ctx, &broker.Message{Room: "lobby", ID: "1", Data: []byte("xxxxxxxxxx")})
	require.NoError(t, err)
	require.True(t, again.Duplicate, "an id within its window")
	require.Equal(t, list[1].Cursor, again.Cursor)
	onWriter(t, b, func(*writer) { b.ahead += time.Hour + time.Second })
	require.Empty(t, kept(t, b, "lobby"), "an hour after Open")
	again, err = b.Publish(ctx, &broker.Message{Room: "lobby", ID: "1", Data: []byte("xxxxxxxxxx")})
	require.NoError(t, err)
	require.False(t, again.Duplicate, "an id an hour after Open")
}

// Where the clock jumped ahead, what is too old by it is gone.
func TestClockAhead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	opts := []Option{WithRetention(100, time.Hour), WithDedup(time.Hour, 100), bySweeps}
	list := setClock(t, path, -2*time.Hour, opts...)
	b := openTest(t, path, opts...)
	require.Empty(t, kept(t, b, "lobby"))
	head, err := b.Head(ctx, "lobby")
	require.NoError(t, err)
	require.Equal(t, list[2].Cursor, head)
	p, err := b.Since(ctx, "lobby", list[0].Cursor, 10)
	require.NoError(t, err)
	require.Equal(t, broker.Gap, p.Verdict)
	require.Equal(t, 2, p.Gap.Missed)
}

// A copy that was restored: cursors of what came after it are not of this history.
func TestRestoredCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	b := openTest(t, path)
	old := publishN(t, b, "lobby", 5, 10)
	require.NoError(t, b.Close())
	copied, err := os.ReadFile(path)
	require.NoError(t, err)
	b = openTest(t, path)
	var later []broker.Receipt
	for range 5 {
		r, err := b.Publish(ctx, &broker.Message{Room: "lobby", Data: []byte("the same")})
		require.NoError(t, err)
		later = append(later, r)
	}
	require.NoError(t, b.Close())
	require.NoError(t, os.WriteFile(path, copied, 0o600))
	b = openTest(t, path)
	verdict := func(c broker.Cursor) string {
		p, err := b.Since(ctx, "lobby", c, 100)
		require.NoError(t, err)
		return p.Verdict.String()
	}
	require.Equal(t, "recovered", verdict(old[4].Cursor))
	require.Equal(t, "reset", verdict(later[0].Cursor), "a future")
	for range 7 {
		_, err := b.Publish(ctx, &broker.Message{Room: "lobby", Data: []byte("the same")})
		require.NoError(t, err)
	}
	for _, r := range later {
		require.Equal(t, "reset", verdict(r.Cursor), "another message's place")
	}
	require.Equal(t, "recovered", verdict(old[4].Cursor))
}

// A file of the version before is brought forward, one step after the other, and keeps what it has.
func TestMigrations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	b := openTest(t, path)
	list := publishN(t, b, "lobby", 3, 10)
	require.NoError(t, b.Close())
	steps := append(migrations[:1:1], "CREATE TABLE extra (a)", "INSERT INTO extra VALUES (7)")
	for range 2 {
		b, err := open(ctx, path, defaults(), steps)
		require.NoError(t, err)
		require.Equal(t, int64(3), number(t, b, "PRAGMA user_version"))
		require.Equal(t, int64(7), number(t, b, "SELECT sum(a) FROM extra"))
		require.Equal(t, list[2].Cursor, kept(t, b, "lobby")[2].Cursor)
		require.NoError(t, b.Close())
	}
	_, err := Open(ctx, path)
	require.ErrorIs(t, err, ErrNewer)
	require.ErrorContains(t, err, "version 3, this program knows up to 1")

	_, err = open(ctx, path, defaults(), append(steps, "CREATE TABLE extra (a)"))
	require.ErrorContains(t, err, "migrate from version 3 to 4", "a step that fails")
	b, err = open(ctx, path, defaults(), steps)
	require.NoError(t, err, "after a step that failed")
	require.Equal(t, int64(3), number(t, b, "PRAGMA user_version"))
	require.NoError(t, b.Close())
}
