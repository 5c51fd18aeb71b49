package sqlitebroker

import (
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

// A full disk: a file system of 2 MiB with something else on it.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skip("can't mount a small file system: ", err)
	}
	defer func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) }()
	filler := filepath.Join(dir, "filler")
	require.NoError(t, os.WriteFile(filler, make([]byte, 512<<10), 0o600))
	path := filepath.Join(dir, "chat.db")
	b := openTest(t, path, keepAll, keepMuch, muchWaits)
	s, err := b.Subscribe(ctx, "lobby")
	require.NoError(t, err)
	list, err := publishUntilRefused(t, b, 0)
	require.Equal(t, codeFull, code(err), "%v", err)
	t.Log(len(list), err)
	refusing(t, b, s, list)

	require.NoError(t, os.Remove(filler))
	for range 20 {
		r, err := b.Publish(ctx, message(len(list)))
		require.NoError(t, err)
		require.False(t, r.Duplicate)
		list = append(list, r)
	}
	holds(t, b, list)
	require.NoError(t, b.Close())
	b = openTest(t, path, keepAll, keepMuch)
	holds(t, b, list)
	require.NoError(t, b.Close())
}

// Writes that fail, by a bound on the size of files.
func TestWriteFails(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	path := filepath.Join(t.TempDir(), "chat.db")
	b := openTest(t, path, keepAll, keepMuch, muchWaits)
	s, err := b.Subscribe(ctx, "lobby")
	require.NoError(t, err)
	var list []broker.Receipt
	for n := range 10 {
		r, err := b.Publish(ctx, message(n))
		require.NoError(t, err)
		list = append(list, r)
	}
	var old syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old))
	low := old
	low.Cur = 1 << 20
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &low))
	more, err := publishUntilRefused(t, b, len(list))
	list = append(list, more...)
	refusing(t, b, s, list)
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old))
	t.Log(len(list), err)
	require.NotZero(t, code(err), "%v", err)
	require.NotErrorIs(t, err, broker.ErrBusy, "of a COMMIT that failed nobody knows")

	r, err := b.Publish(ctx, message(len(list)))
	require.NoError(t, err)
	require.False(t, r.Duplicate)
	list = append(list, r)
	holds(t, b, list)
	require.NoError(t, b.Close())
	holds(t, openTest(t, path, keepAll, keepMuch), list)
}
