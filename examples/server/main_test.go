package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/internal/leaktest"
	"github.com/chathub-go/hub/internal/wsconn"
)

// TestMain lets the test binary be the program itself.
func TestMain(m *testing.M) {
	if os.Getenv("HUB_TEST_SERVER") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(leaktest.Run(m))
}

func command(t *testing.T, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), "HUB_TEST_SERVER=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// A process is the server, running.
type process struct {
	*exec.Cmd
	addr string
	log  chan string // what is left of its log, when it has ended
}

// start runs the server on a free port, which it logs.
func start(t *testing.T, args ...string) *process {
	p := &process{Cmd: command(t, append([]string{"-addr", "127.0.0.1:0"}, args...)...), log: make(chan string, 1)}
	stderr, err := p.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.Start())
	var line []byte
	for b := make([]byte, 1); ; line = append(line, b[0]) {
		_, err := io.ReadFull(stderr, b)
		require.NoError(t, err, "log: %s", line)
		if b[0] == '\n' {
			break
		}
	}
	m := regexp.MustCompile(`addr=(\S+)`).FindSubmatch(line)
	require.NotNil(t, m, "log: %s", line)
	p.addr = string(m[1])
	go func() {
		rest, _ := io.ReadAll(stderr)
		p.log <- string(rest)
	}()
	return p
}

// wait returns the exit code, and what was logged.
func (p *process) wait() (code int, log string) {
	log = <-p.log
	p.Wait()
	return p.ProcessState.ExitCode(), log
}

func dial(t *testing.T, url string, subprotocols ...string) *wsconn.ClientConn {
	conn, _, err := wsconn.Dial(t.Context(), url, wsconn.DialOptions{Subprotocols: subprotocols})
	require.NoError(t, err)
	t.Cleanup(conn.CloseNow)
	return conn
}

func read(t *testing.T, conn *wsconn.ClientConn) string {
	_, p, err := conn.Read(t.Context())
	require.NoError(t, err)
	return string(p)
}

func write(t *testing.T, conn *wsconn.ClientConn, text string) {
	require.NoError(t, conn.Write(t.Context(), wsconn.OpText, []byte(text)))
}

// event reads events until one of a type comes.
func event(t *testing.T, conn *wsconn.ClientConn, typ string) map[string]any {
	for {
		var e map[string]any
		require.NoError(t, json.Unmarshal([]byte(read(t, conn)), &e))
		if e["type"] == typ {
			return e
		}
	}
}

func startHandler(t *testing.T, s settings) (*hub.Hub, *httptest.Server) {
	h := newHub(s, newLog(io.Discard, true))
	srv := httptest.NewServer(handler(h, new(atomic.Bool)))
	t.Cleanup(func() {
		require.NoError(t, h.Shutdown(context.Background()))
		srv.Close()
	})
	return h, srv
}

func TestRoutes(t *testing.T) {
	_, srv := startHandler(t, settings{history: 10})
	get := func(path string) (int, string) {
		resp, err := http.Get(srv.URL + path)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body)
	}
	code, body := get("/healthz")
	require.Equal(t, 200, code)
	require.Equal(t, "ok\n", body)
	code, body = get("/")
	require.Equal(t, 200, code)
	require.Contains(t, body, "<title>")
	for _, path := range []string{"/room", "/room/lobby"} {
		code, _ = get(path)
		require.Equal(t, 426, code, path)
	}
	code, _ = get("/elsewhere")
	require.Equal(t, 404, code)

	lobby := dial(t, srv.URL+"/room?name=alice")
	require.Equal(t, "* alice joined", read(t, lobby))
	den := dial(t, srv.URL+"/room/den?name=carol")
	require.Equal(t, "* carol joined", read(t, den))
	bob := dial(t, srv.URL+"/room/lobby?name=bob") // the same room
	require.Equal(t, "* bob joined", read(t, bob))
	require.Equal(t, "* bob joined", read(t, lobby))
	write(t, bob, "hello")
	require.Equal(t, "bob: hello", read(t, lobby))
	write(t, den, "nobody else is here")
	require.Equal(t, "carol: nobody else is here", read(t, den))
}

func TestLanguage(t *testing.T) {
	_, srv := startHandler(t, settings{lang: "ja"})
	conn := dial(t, srv.URL+"/room?name=alice")
	require.Equal(t, "* aliceさんが入室しました", read(t, conn))
}

func TestRateAndHistory(t *testing.T) {
	_, srv := startHandler(t, settings{rate: 5, history: 7})
	conn := dial(t, srv.URL+"/room?name=alice", "hub.v1.json")
	limits := event(t, conn, "welcome")["limits"].(map[string]any)
	require.Equal(t, 5.0, limits["rate"])
	require.Equal(t, 10.0, limits["burst"])
	require.Equal(t, 7.0, limits["history"])
}

func TestOrigin(t *testing.T) {
	s, err := parse([]string{"-origin", "one.example, *.two.example", "-origin", "three.example:8000"})
	require.NoError(t, err)
	_, srv := startHandler(t, s)
	for origin, want := range map[string]int{
		"https://one.example": 101, "https://a.two.example": 101, "http://three.example:8000": 101,
		srv.URL: 101, "https://two.example": 403, "https://evil.example": 403,
	} {
		conn, resp, err := wsconn.Dial(t.Context(), srv.URL+"/room", wsconn.DialOptions{Header: http.Header{"Origin": {origin}}})
		require.Equal(t, want, resp.StatusCode, origin)
		if err == nil {
			conn.CloseNow()
		}
	}
}

// TestDrain: a signal drains: what was accepted is delivered, then each client gets a
// close frame, and the exit code is 0.
func TestDrain(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			p := start(t)
			alice := dial(t, "ws://"+p.addr+"/room?name=alice", "hub.v1.json")
			event(t, alice, "joined")
			bob := dial(t, "ws://"+p.addr+"/room?name=bob")
			require.Equal(t, "* bob joined", read(t, bob))
			write(t, alice, `{"type":"publish","id":"1","data":"last words"}`)
			var got string
			for !strings.Contains(got, `"ack"`) {
				got += read(t, alice)
			}
			require.NoError(t, p.Process.Signal(sig))
			require.Contains(t, got+untilRestart(t, alice), `"data":"last words"`)
			require.Contains(t, untilRestart(t, bob), "alice: last words")
			code, log := p.wait()
			require.Equal(t, 0, code, log)
		})
	}
}

// untilRestart reads to the end of a connection, which is a close frame that says so.
func untilRestart(t *testing.T, conn *wsconn.ClientConn) (read string) {
	for {
		_, p, err := conn.Read(t.Context())
		if err != nil {
			var closed *wsconn.CloseError
			require.ErrorAs(t, err, &closed)
			require.True(t, closed.Remote)
			require.Equal(t, 1012, closed.Code)
			return read
		}
		read += string(p) + "\n"
	}
}

// TestSecondSignal: who does not want to wait for a client that never reads.
func TestSecondSignal(t *testing.T) {
	h := newHub(settings{}, newLog(io.Discard, true))
	srv := httptest.NewServer(handler(h, new(atomic.Bool)))
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String()) // it neither reads nor answers a close frame
	require.NoError(t, err)
	defer conn.Close()
	io.WriteString(conn, "GET /room?name=stuck HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	watch := dial(t, srv.URL+"/room?name=watch", "hub.v1.json")
	event(t, watch, "joined")

	forced, force := context.WithCancelCause(t.Context())
	done := make(chan error)
	go func() { done <- shutdown(forced, h, srv.Config) }()
	event(t, watch, "drain")
	force(io.ErrUnexpectedEOF)
	require.ErrorIs(t, <-done, io.ErrUnexpectedEOF)
}

func TestOneSignalSentTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan os.Signal, 1)
		begin := time.Now()
		time.AfterFunc(0, func() { stop <- syscall.SIGTERM })
		time.AfterFunc(100*time.Millisecond, func() { stop <- syscall.SIGTERM })
		time.AfterFunc(300*time.Millisecond, func() { stop <- syscall.SIGTERM })
		require.Error(t, secondSignal(stop))
		require.Equal(t, 300*time.Millisecond, time.Since(begin))
	})
}

// TestQuiet: only errors are logged.
func TestQuiet(t *testing.T) {
	var b bytes.Buffer
	log := newLog(&b, true)
	log.Info("listening")
	log.Warn("slow")
	require.Empty(t, b.String())
	log.Error("broken")
	require.Contains(t, b.String(), "broken")
}

// TestOneClearLine: what can't work says why in one line, with exit code 1.
func TestOneClearLine(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, tc := range []struct {
		name, want string
		args       []string
	}{
		{"address taken", "can't listen on " + taken.Addr().String() + ": address already in use", []string{"-addr", taken.Addr().String()}},
		{"no port", "missing port", []string{"-addr", "localhost"}},
		{"negative rate", "-rate -1", []string{"-rate", "-1"}},
		{"no rate", "-rate NaN", []string{"-rate", "nan"}},
		{"rate of words", "-rate", []string{"-rate", "many"}},
		{"negative history", "-history -1", []string{"-history", "-1"}},
		{"language", `-lang "fr"`, []string{"-lang", "fr"}},
		{"origin", `-origin "["`, []string{"-origin", "["}},
		{"origin with a path", `-origin "https://example.com/"`, []string{"-origin", "https://example.com/"}},
		{"unknown flag", "-prot", []string{"-prot", "1"}},
		{"stray argument", `"8000"`, []string{"8000"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := command(t, tc.args...)
			out, _ := cmd.CombinedOutput()
			require.Equal(t, 1, cmd.ProcessState.ExitCode(), "%s", out)
			require.Equal(t, 1, bytes.Count(out, []byte("\n")), "%s", out)
			require.True(t, bytes.HasPrefix(out, []byte("server: ")), "%s", out)
			require.Contains(t, string(out), tc.want)
		})
	}
	help, err := command(t, "-help").Output()
	require.NoError(t, err)
	require.Contains(t, string(help), "-origin")
}

func TestCompress(t *testing.T) {
	s, err := parse([]string{"-compress"})
	require.NoError(t, err)
	h, srv := startHandler(t, s)
	conn, _, err := wsconn.Dial(t.Context(), srv.URL+"/room/lobby?name=alice", wsconn.DialOptions{Compress: true})
	require.NoError(t, err)
	t.Cleanup(conn.CloseNow)
	require.Equal(t, "* alice joined", read(t, conn))
	long := strings.Repeat("hello ", 100)
	write(t, conn, long)
	require.Equal(t, "alice: "+long, read(t, conn))
	require.EqualValues(t, 1, h.Stats().Deflated)
}
