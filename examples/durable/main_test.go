package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/hubclient"
	"github.com/chathub-go/hub/internal/leaktest"
)

func TestMain(m *testing.M) {
	if os.Getenv("DURABLE_SERVER") != "" { // this is the server that a test has started
		main()
		os.Exit(0)
	}
	os.Exit(leaktest.Run(m))
}

// A program is this package's server as a process, which may be started again and again.
type program struct {
	t    *testing.T
	args []string
	addr string

	cmd *exec.Cmd
	log *lines
}

// lines is what a process wrote.
type lines struct {
	mu   sync.Mutex // guards text
	text strings.Builder
	done chan struct{} // closed at the end
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newProgram(t *testing.T, args ...string) *program {
	p := &program{t: t, addr: freeAddr(t)}
	p.args = append([]string{"-addr", p.addr, "-db", filepath.Join(t.TempDir(), "chat.db")}, args...)
	t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
		if t.Failed() && p.log != nil {
			t.Logf("the last server's log:\n%s", p.log)
		}
	})
	return p
}

// freeAddr is one where a server can be started again: its port is not one that the system gives
// to connections, such as those of clients that look for the server while it is away.
func freeAddr(t *testing.T) string {
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.N(12_000))
		if l, err := net.Listen("tcp", addr); err == nil {
			require.NoError(t, l.Close())
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}

func (p *program) room(name string) string { return "ws://" + p.addr + "/room/" + name }

var listening = regexp.MustCompile(`msg=listening addr=(\S+)`)

// start starts the server and waits until it listens.
func (p *program) start() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0], p.args...)
	p.cmd.Env = append(os.Environ(), "DURABLE_SERVER=1")
	r, w, err := os.Pipe()
	require.NoError(p.t, err)
	p.cmd.Stderr = w
	require.NoError(p.t, p.cmd.Start())
	require.NoError(p.t, w.Close())
	p.log = &lines{done: make(chan struct{})}
	log, ready := p.log, make(chan struct{})
	go func() {
		defer close(log.done)
		defer r.Close()
		in := bufio.NewScanner(r)
		for in.Scan() {
			log.mu.Lock()
			fmt.Fprintln(&log.text, in.Text())
			log.mu.Unlock()
			if listening.MatchString(in.Text()) {
				close(ready)
			}
		}
	}()
	select {
	case <-ready:
	case <-log.done:
		p.t.Fatalf("the server did not start:\n%s", log)
	}
}

// kill ends the server with no warning.
func (p *program) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.wait()
}

// wait waits for the server's end, and returns its exit code.
func (p *program) wait() int {
	_ = p.cmd.Wait()
	<-p.log.done
	code := p.cmd.ProcessState.ExitCode()
	p.cmd = nil
	return code
}

// TestStopAndStart: whoever was there comes back, and gets what it missed.
func TestStopAndStart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := newProgram(t)
	p.start()
	alice, err := hubclient.Dial(ctx, p.room("lobby"), hubclient.WithName("alice"))
	require.NoError(t, err)
	defer alice.Close()
	for i, stop := range []func(){
		func() {
			require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
			log := p.log
			require.Zero(t, p.wait(), log)
		},
		p.kill,
	} {
		_, err := alice.Publish(ctx, hubclient.Text(fmt.Sprint("message ", i)))
		require.NoError(t, err)
		stop()
		p.start()
		for e := range alice.Events() {
			if e.Type == hubclient.EventWelcome && e.Welcome.Recovery != hubclient.RecoveryNew {
				require.Equal(t, hubclient.RecoveryRecovered, e.Welcome.Recovery)
				break
			}
		}
	}

	// Who comes for the first time finds what was said before.
	bob, err := hubclient.Dial(ctx, p.room("lobby"), hubclient.WithName("bob"))
	require.NoError(t, err)
	defer bob.Close()
	list, more, err := bob.History(ctx, "", 0, 0)
	require.NoError(t, err)
	require.False(t, more)
	require.Len(t, list, 2)
	require.Equal(t, "message 1", list[1].Text())

	resp, err := http.Get("http://" + p.addr + "/")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
}

// TestMistakes: each is one line, and no server.
func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	require.NoError(t, os.WriteFile(other, []byte(strings.Repeat("not a database ", 1000)), 0o600))
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"-rate", "-1"}, "-rate -1"},
		{[]string{"-rate", "NaN"}, "-rate NaN"},
		{[]string{"-age", "-1s"}, "can't be negative"},
		{[]string{"what"}, `what does "what" mean`},
		{[]string{"-nothing"}, "not defined"},
		{[]string{"-db", other}, "other"},
		{[]string{"-db", filepath.Join(dir, "no", "such", "dir", "chat.db")}, "no such"},
		{[]string{"-db", filepath.Join(dir, "chat.db"), "-addr", "nowhere:1:1"}, "nowhere"},
	} {
		require.ErrorContains(t, run(tc.args), tc.want, "%v", tc.args)
	}
	require.NoFileExists(t, filepath.Join(dir, "no"))
}
