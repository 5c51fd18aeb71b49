package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/broker/sqlitebroker"
	"github.com/chathub-go/hub/internal/wsconn"
)

// TestMain lets the test binary be the program itself.
func TestMain(m *testing.M) {
	if os.Getenv("HUB_TEST_SERVER") != "" {
		main()
		os.Exit(0)
	}
	before := runtime.NumGoroutine()
	code := m.Run()
	for deadline := time.Now().Add(5 * time.Second); code == 0 && runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "goroutines left:\n%s\n", buf[:runtime.Stack(buf, true)])
			code = 1
		}
	}
	os.Exit(code)
}

// start runs the program on a free port, and returns the URL that it prints.
func start(t *testing.T, args ...string) (cmd *exec.Cmd, url string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, os.Args[0], append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), "HUB_TEST_SERVER=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	m := regexp.MustCompile(`http://(\S+),`).FindStringSubmatch(line)
	require.NotNil(t, m, line)
	return cmd, "ws://" + m[1] + "/room/lobby?name=alice"
}

func dial(t *testing.T, url string) *wsconn.ClientConn {
	conn, _, err := wsconn.Dial(t.Context(), url, wsconn.DialOptions{Subprotocols: []string{"hub.v1.json"}})
	require.NoError(t, err)
	t.Cleanup(conn.CloseNow)
	return conn
}

// event reads events until one of a type comes.
func event(t *testing.T, conn *wsconn.ClientConn, typ string) map[string]any {
	for {
		_, p, err := conn.Read(t.Context())
		require.NoError(t, err)
		var e map[string]any
		require.NoError(t, json.Unmarshal(p, &e))
		if e["type"] == typ {
			return e
		}
	}
}

func publish(t *testing.T, conn *wsconn.ClientConn, id, text string) (seq float64) {
	m := fmt.Sprintf(`{"type":"publish","id":%q,"data":%q}`, id, text)
	require.NoError(t, conn.Write(t.Context(), wsconn.OpText, []byte(m)))
	return event(t, conn, "ack")["seq"].(float64)
}

// Stopped or killed, and started again: who comes back gets what it missed, once, and an id is known.
func TestRestart(t *testing.T) {
	db := filepath.Join(t.TempDir(), "chat.db")
	cmd, url := start(t, "-db", db)
	reader, writer := dial(t, url), dial(t, url)
	session := event(t, writer, "welcome")["session"].(string)
	event(t, reader, "welcome")
	seq := publish(t, writer, "first", "first")
	first := event(t, reader, "message")
	require.Equal(t, "first", first["data"])
	seen := first["cursor"].(string)

	for round, stop := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGKILL} {
		missed := fmt.Sprint("missed ", round)
		at := publish(t, writer, missed, missed)
		require.NoError(t, cmd.Process.Signal(stop))
		reader.CloseNow()
		writer.CloseNow()
		err := cmd.Wait()
		if stop == syscall.SIGTERM {
			require.NoError(t, err, "a graceful stop")
		} else {
			require.Error(t, err)
		}

		cmd, url = start(t, "-db", db)
		reader = dial(t, url+"&since="+seen)
		welcome := event(t, reader, "welcome")
		require.Equal(t, "recovered", welcome["recovery"], "after %v", stop)
		got := event(t, reader, "message")
		require.Equal(t, missed, got["data"], "after %v", stop)
		require.Equal(t, at, got["seq"])
		seen = got["cursor"].(string)

		writer = dial(t, url+"&session="+session)
		event(t, writer, "welcome")
		require.Equal(t, at, publish(t, writer, missed, missed), "the position of a repeat")
		require.Equal(t, seq, publish(t, writer, "first", "first"), "the position of the first again")
	}
	publish(t, writer, "last", "last")
	require.Equal(t, "last", event(t, reader, "message")["data"], "what comes next, and no repeat")
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait())
}

// A room's own history is kept by the file too.
func TestRoomHistory(t *testing.T) {
	db := filepath.Join(t.TempDir(), "chat.db")
	for range 2 {
		b, err := sqlitebroker.Open(t.Context(), db)
		require.NoError(t, err)
		h := hub.New(hub.WithBroker(b))
		room, err := h.Room("lobby", hub.WithHistory(3, time.Hour))
		require.NoError(t, err)
		for range 5 {
			_, err := room.Publish(t.Context(), hub.Text("hello"))
			require.NoError(t, err)
		}
		p, err := b.Before(t.Context(), "lobby", 0, 100)
		require.NoError(t, err)
		require.Len(t, p.Messages, 3)
		require.NoError(t, h.Shutdown(t.Context()))
		require.NoError(t, b.Close())
	}
}

// A mistake is one line on stderr, and exit code 1.
func TestMistakes(t *testing.T) {
	db := filepath.Join(t.TempDir(), "chat.db")
	cmd, _ := start(t, "-db", db)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"in use":     {[]string{"-addr", "127.0.0.1:0", "-db", db}, "in use"},
		"no folder":  {[]string{"-addr", "127.0.0.1:0", "-db", filepath.Join(db, "none", "chat.db")}, "none"},
		"argument":   {[]string{"chat.db"}, "what does"},
		"no history": {[]string{"-history", "-1"}, "0 or more"},
		"address":    {[]string{"-addr", "nonsense"}, "can't listen"},
	} {
		c := exec.Command(os.Args[0], test.args...)
		c.Env = append(os.Environ(), "HUB_TEST_SERVER=1", "GORACE=atexit_sleep_ms=0")
		out, err := c.CombinedOutput()
		require.Error(t, err, name)
		require.Contains(t, string(out), test.want, name)
		require.Regexp(t, `^durable: .*\n$`, string(out), name)
	}
	c := exec.Command(os.Args[0], "-help")
	c.Env = append(os.Environ(), "HUB_TEST_SERVER=1", "GORACE=atexit_sleep_ms=0")
	out, err := c.Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "-db path")
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
}
