package sqlitebroker

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/broker/brokertest"
)

var ctx = context.Background()

// limited are the options for l.
func limited(l brokertest.Limits) []Option {
	messages, age := defaultMessages, defaultAge
	if l.Messages != 0 {
		messages = l.Messages
	}
	if l.Age != 0 {
		age = l.Age
	}
	opts := []Option{WithRetention(messages, age)}
	if l.DedupWindow != 0 {
		opts = append(opts, WithDedup(l.DedupWindow, 100_000))
	}
	if l.Waiting != 0 {
		opts = append(opts, WithWaiting(l.Waiting, 1<<20))
	}
	return opts
}

func TestBroker(t *testing.T) {
	opened := make(map[broker.Broker][]Option)
	brokertest.Run(t, brokertest.Harness{
		Second:  200 * time.Millisecond,
		Timeout: 30 * time.Second,
		Open: func(t *testing.T, l brokertest.Limits) broker.Broker {
			b, err := Open(ctx, filepath.Join(fastDir(t), "chat.db"), limited(l)...)
			require.NoError(t, err)
			opened[b] = limited(l)
			return b
		},
		Restart: func(t *testing.T, b broker.Broker) broker.Broker {
			require.NoError(t, b.Close())
			again, err := Open(ctx, b.(*Broker).path, opened[b]...)
			require.NoError(t, err)
			opened[again] = opened[b]
			return again
		},
	})
}

// fastDir is a folder whose fsync takes no time, where there is one: the suite takes a publish that needs longer
// than a moment for one that waits.
func fastDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "sqlitebroker")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// openTest opens a broker that the test's end closes.
func openTest(t *testing.T, path string, opts ...Option) *Broker {
	t.Helper()
	b, err := Open(ctx, path, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// Who gives up before the writer has taken the message has kept nothing.
func TestWithdrawn(t *testing.T) {
	b := openTest(t, filepath.Join(t.TempDir(), "chat.db"))
	s, err := b.Subscribe(ctx, "lobby")
	require.NoError(t, err)
	held, hold := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	go func() {
		_ = b.writer.do(ctx, func() {
			close(held)
			<-hold
		})
	}()
	<-held
	const publishers = queued + 100 // some don't even get into the queue
	errs := make(chan error, publishers)
	c, cancel := context.WithCancel(ctx)
	for n := range publishers {
		go func() {
			m := message(n)
			m.Data = nil
			_, err := b.Publish(c, m)
			errs <- err
		}()
	}
	for len(b.writer.requests) < queued {
		runtime.Gosched()
	}
	cancel()
	for range publishers {
		err := <-errs
		require.ErrorIs(t, err, context.Canceled)
		if !errors.Is(err, broker.ErrBusy) { // its Publish began after the end
			require.ErrorContains(t, err, "publish")
		}
	}
	release()
	r, err := b.Publish(ctx, &broker.Message{Room: "lobby"})
	require.NoError(t, err)
	require.Equal(t, uint64(1), r.Cursor.Seq, "seq of the only message")
	got, err := s.Take(nil, 10)
	require.NoError(t, err)
	require.Len(t, got, 1)
}

// Close finishes what is under way and refuses what waits.
func TestCloseRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	b := openTest(t, path, keepAll)
	type outcome struct {
		n   int
		err error
	}
	outcomes := make(chan outcome, 1000)
	for p := range 50 {
		go func() {
			for i := 0; ; i++ {
				n := p*1_000_000 + i
				_, err := b.Publish(ctx, message(n))
				outcomes <- outcome{n, err}
				if err != nil {
					return
				}
			}
		}()
	}
	acked := make(map[string]bool)
	ended, closing := 0, false
	closed := make(chan error, 1)
	for ended < 50 {
		o := <-outcomes
		if o.err == nil {
			acked[message(o.n).ID] = true
		} else {
			require.ErrorIs(t, o.err, broker.ErrClosed)
			ended++
		}
		if len(acked) == 500 && !closing {
			closing = true
			go func() { closed <- b.Close() }()
		}
	}
	require.NoError(t, <-closed)
	require.NoError(t, b.Close(), "again")
	b = openTest(t, path, keepAll)
	p, err := b.Since(ctx, "lobby", broker.Cursor{}, 1_000_000)
	require.NoError(t, err)
	require.Len(t, p.Messages, len(acked), "all that was acked, and no more")
	for _, m := range p.Messages {
		require.True(t, acked[m.ID], "%s was refused, and is kept", m.ID)
	}
}

// The files are their owner's alone.
func TestModes(t *testing.T) {
	dir := t.TempDir()
	b := openTest(t, filepath.Join(dir, "chat.db"))
	publishN(t, b, "lobby", 3, 10)
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
		info, err := f.Info()
		require.NoError(t, err)
		if runtime.GOOS != "windows" {
			require.Equal(t, os.FileMode(0o600), info.Mode(), f.Name())
		}
	}
	require.Equal(t, []string{"chat.db", "chat.db-lock", "chat.db-shm", "chat.db-wal"}, names)
	require.NoError(t, b.Close())
	files, err = os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 2, "the log is gone after Close")
}

// Whatever bytes strings have, they come back.
func TestWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	b := openTest(t, path)
	for i, s := range []string{"", "\x00", "a\x00b", "\xff\xfe", "ü'\"%"} {
		m := &broker.Message{
			Room: "room" + s, ID: "id" + s, From: broker.Member{Client: s, User: s, Name: s}, Kind: broker.KindBinary, Key: s,
			Data: []byte(s),
		}
		r, err := b.Publish(ctx, m)
		require.NoError(t, err)
		got := kept(t, b, m.Room)
		require.Len(t, got, 1)
		want := *m
		want.Time, want.Cursor = r.Time, r.Cursor
		if want.Data = got[0].Data; i > 0 {
			require.Equal(t, s, string(got[0].Data))
		}
		require.Equal(t, &want, got[0])
	}
}
