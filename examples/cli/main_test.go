package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/internal/leaktest"
)

// TestMain lets the test binary be the program itself, so that tests run it as a
// process with pipes and signals.
func TestMain(m *testing.M) {
	if os.Getenv("HUB_TEST_CLI") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(leaktest.Run(m))
}

// command is the program as a process; it is killed if it takes a minute.
func command(t *testing.T, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), "HUB_TEST_CLI=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// pipe runs the program with input and returns what it wrote.
func pipe(t *testing.T, input string, args ...string) (stdout, stderr string, code int) {
	cmd := command(t, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// A process is the program, running.
type process struct {
	*exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer // after wait
}

func start(t *testing.T, args ...string) *process {
	p := &process{Cmd: command(t, args...)}
	p.Stderr = &p.stderr
	var err error
	p.in, err = p.StdinPipe()
	require.NoError(t, err)
	out, err := p.StdoutPipe()
	require.NoError(t, err)
	p.out = bufio.NewReader(out)
	require.NoError(t, p.Start())
	return p
}

// until reads lines up to one, and returns what came before it.
func (p *process) until(t *testing.T, want string) (before []string) {
	for {
		line, err := p.out.ReadString('\n')
		require.NoError(t, err, "waiting for %q after %q", want, before)
		line = strings.TrimSuffix(line, "\n")
		if line == want {
			return before
		}
		before = append(before, line)
	}
}

// wait waits for the end, and returns the rest of the output.
func (p *process) wait() (rest string, code int) {
	b, _ := io.ReadAll(p.out)
	p.Wait()
	return string(b), p.ProcessState.ExitCode()
}

// A server is a hub on a loopback port whose connections a test can cut, and which it can
// replace by another one.
type server struct {
	*hub.Hub
	lobby  *hub.Room
	addr   string
	joined chan *hub.Client
	left   chan error // the reasons

	listener *cutter
	mux      atomic.Pointer[http.ServeMux]
}

func startHub(t *testing.T, opts ...hub.HubOption) *server {
	s := &server{joined: make(chan *hub.Client, 100), left: make(chan error, 100)}
	s.open(t, opts...)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mux.Load().ServeHTTP(w, r)
	}))
	s.listener = &cutter{Listener: srv.Listener, conns: make(chan net.Conn, 100)}
	srv.Listener = s.listener
	srv.Start()
	s.addr = s.listener.Addr().String()
	t.Cleanup(srv.Close)
	return s
}

// open puts a hub in the place of the one before, which is left alone.
func (s *server) open(t *testing.T, opts ...hub.HubOption) {
	opts = append(opts,
		hub.WithOnJoin(func(c *hub.Client, _ *hub.Room) { s.joined <- c }),
		hub.WithOnLeave(func(_ *hub.Client, _ *hub.Room, reason error) { s.left <- reason }))
	h := hub.New(opts...)
	t.Cleanup(func() { require.NoError(t, h.Shutdown(context.Background())) })
	var err error
	s.lobby, err = h.Room("lobby")
	require.NoError(t, err)
	s.Hub = h
	mux := http.NewServeMux()
	mux.Handle("/room", s.lobby)
	mux.Handle("/room/{room}", h)
	s.mux.Store(mux)
}

func (s *server) say(t *testing.T, text string) {
	_, err := s.lobby.Publish(t.Context(), hub.Text(text))
	require.NoError(t, err)
}

// A cutter is a listener that knows its connections.
type cutter struct {
	net.Listener
	conns chan net.Conn
}

func (l *cutter) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.conns <- conn
	}
	return conn, err
}

// cut resets the connections made so far.
func (l *cutter) cut() {
	for {
		select {
		case conn := <-l.conns:
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		default:
			return
		}
	}
}

func TestRoomURL(t *testing.T) {
	for _, tc := range []struct{ addr, room, want string }{
		{"localhost:8000", "lobby", "ws://localhost:8000/room"},
		{"chat_server:8000", "lobby", "ws://chat_server:8000/room"},
		{":8000", "den", "ws://localhost:8000/room/den"},
		{"example.com", "a b&c%?", "ws://example.com/room/a%20b&c%25%3F"},
		{"wss://example.com/", "den", "wss://example.com/room/den"},
		{"https://example.com/chat", "lobby", "wss://example.com/chat"},
		{"ws://example.com/chat", "den", "ws://example.com/chat/den"},
		{"ws://example.com/room?name=x&token=y#z", "lobby", "ws://example.com/room?name=x&token=y"},
		{"[::1]:8000", "lobby", "ws://[::1]:8000/room"},
	} {
		u, err := roomURL(tc.addr, tc.room)
		require.NoError(t, err, tc.addr)
		require.Equal(t, tc.want, u.String())
	}
	for _, room := range []string{".", ".."} {
		_, err := roomURL("localhost:8000", room)
		require.ErrorContains(t, err, "no name of a room")
	}
}

// TestPipe is the example of the README.
func TestPipe(t *testing.T) {
	s := startHub(t)
	stdout, stderr, code := pipe(t, "hi\nexit\nnot sent\n", "-addr", s.addr, "-name", "alice")
	require.Equal(t, 0, code, stderr)
	require.Equal(t, "alice: hi\n", stdout)
	require.NoError(t, <-s.left, "it left with a close handshake")
}

func TestPipeWithoutExit(t *testing.T) {
	s := startHub(t)
	stdout, stderr, code := pipe(t, "hi\r\n\n  there  \nno newline at the end", "-addr", "ws://"+s.addr, "-room", "den 1", "-name", "アリス")
	require.Equal(t, 0, code, stderr)
	require.Equal(t, "アリス: hi\nアリス:   there  \nアリス: no newline at the end\n", stdout)
	require.Contains(t, stderr, "connected to den 1 as アリス, nobody else is here")
}

func TestPipeWithoutName(t *testing.T) {
	s := startHub(t)
	stdout, stderr, code := pipe(t, "hi\n", "-addr", s.addr)
	require.Equal(t, 0, code, stderr)
	require.Regexp(t, `^guest-\w+: hi\n$`, stdout)
}

func TestEmptyInput(t *testing.T) {
	s := startHub(t)
	stdout, stderr, code := pipe(t, "", "-addr", s.addr, "-name", "alice")
	require.Equal(t, 0, code, stderr)
	require.Empty(t, stdout)
}

// TestNoLineIsLost: input that ends long before the server took it, from a publisher
// that the server slows down.
func TestNoLineIsLost(t *testing.T) {
	s := startHub(t, hub.WithPublishRate(500, 5))
	var input, want strings.Builder
	for i := range 400 {
		fmt.Fprintf(&input, "line %d\n", i)
		fmt.Fprintf(&want, "alice: line %d\n", i)
	}
	stdout, stderr, code := pipe(t, input.String(), "-addr", s.addr, "-name", "alice")
	require.Equal(t, 0, code, stderr)
	require.Equal(t, want.String(), stdout)
}

// TestRoomsOnly: a service that mounts /room/{room} and nothing else, as README's ten
// lines do. A guest comes back to where it was, under the name that it had.
func TestRoomsOnly(t *testing.T) {
	s := startHub(t)
	asked := make(chan *url.URL, 100)
	mux := http.NewServeMux()
	mux.Handle("/room/{room}", s.Hub)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL
		mux.ServeHTTP(w, r)
	}))
	defer srv.Close()
	p := start(t, "-addr", srv.Listener.Addr().String())
	c := <-s.joined
	name := c.Name()
	require.Equal(t, "/room", (<-asked).Path)
	first := <-asked
	require.Equal(t, "/room/lobby", first.Path)
	require.Empty(t, first.Query().Get("name"))
	s.say(t, "one")
	p.until(t, "* one")
	c.Close(1012, "restarting")
	require.Equal(t, name, (<-s.joined).Name())
	require.Equal(t, "/room/lobby", (<-asked).Path)
	p.in.Close()
	_, code := p.wait()
	require.Equal(t, 0, code, p.stderr.String())
}

// TestRefusedOnce: a refusal that has nothing to do with subprotocols is final.
func TestRefusedOnce(t *testing.T) {
	var asked atomic.Int32
	s := startHub(t, hub.WithAuthorize(func(*hub.Client, string) error {
		asked.Add(1)
		return errors.New("no")
	}))
	_, stderr, code := pipe(t, "hi\n", "-addr", s.addr, "-name", "alice")
	require.Equal(t, 1, code)
	require.Equal(t, "cli: "+s.addr+" says: not allowed\n", stderr)
	require.EqualValues(t, 1, asked.Load())
}

// TestKicked: some close codes say that trying again can't help.
func TestKicked(t *testing.T) {
	s := startHub(t)
	p := start(t, "-addr", s.addr, "-name", "alice")
	(<-s.joined).Close(1008, "be nice")
	_, code := p.wait()
	require.Equal(t, 1, code)
	require.True(t, strings.HasSuffix(p.stderr.String(), "cli: the server closed the connection: be nice\n"), p.stderr.String())
}

// TestOneClearLine: what can't work says why in one line, with exit code 1.
func TestOneClearLine(t *testing.T) {
	s := startHub(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	nobody := free.Addr().String()
	free.Close()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	defer other.Close()
	for _, tc := range []struct {
		name, want string
		args       []string
	}{
		{"nobody listens", "can't reach " + nobody + ": connection refused", []string{"-addr", nobody}},
		{"no such host", "can't reach nowhere.invalid:8000: ", []string{"-addr", "nowhere.invalid:8000"}},
		{"invalid name", s.addr + " says: ", []string{"-addr", s.addr, "-name", "a:b"}},
		{"not a WebSocket server", "is no hub: it does not speak WebSocket", []string{"-addr", other.Listener.Addr().String()}},
		{"no address", "-addr", []string{"-addr", "http://"}},
		{"bad address", "-addr", []string{"-addr", "local host"}},
		{"scheme", "-addr", []string{"-addr", "ftp://localhost"}},
		{"unknown flag", "-nmae", []string{"-nmae", "x"}},
		{"stray argument", `"alice"`, []string{"alice"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			stdout, stderr, code := pipe(t, "hi\n", tc.args...)
			require.Equal(t, 1, code, stderr)
			require.Empty(t, stdout)
			require.True(t, strings.HasPrefix(stderr, "cli: "), stderr)
			require.Contains(t, stderr, tc.want)
			require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
		})
	}
	stdout, _, code := pipe(t, "", "-help")
	require.Equal(t, 0, code)
	require.Contains(t, stdout, "-room")
}

// TestReconnect: a connection that is cut in the middle costs nothing: what was missed
// comes, once, and what was typed meanwhile goes out, once.
func TestReconnect(t *testing.T) {
	s := startHub(t)
	p := start(t, "-addr", s.addr, "-name", "alice")
	<-s.joined
	s.say(t, "one")
	p.until(t, "* one")
	s.listener.cut()
	for i := range 50 {
		s.say(t, fmt.Sprint("missed ", i))
		fmt.Fprintf(p.in, "typed %d\n", i)
	}
	p.in.Close()
	rest, code := p.wait()
	require.Equal(t, 0, code, p.stderr.String())
	var missed, typed []string
	for line := range strings.Lines(rest) {
		switch line = strings.TrimSpace(line); {
		case strings.Contains(line, "missed"):
			missed = append(missed, line)
		case strings.Contains(line, "typed"):
			typed = append(typed, line)
		}
	}
	require.Len(t, missed, 50, rest)
	require.Len(t, typed, 50, rest)
	for i := range 50 {
		require.Contains(t, missed[i], fmt.Sprint("missed ", i))
		require.Equal(t, fmt.Sprint("alice: typed ", i), typed[i])
	}
	require.Contains(t, p.stderr.String(), "* connection lost")
	require.Contains(t, p.stderr.String(), "* connected again, nothing was missed")
}

// TestGap: more was missed than the server keeps.
func TestGap(t *testing.T) {
	s := startHub(t, hub.WithHistory(3, time.Hour))
	p := start(t, "-addr", s.addr, "-name", "alice")
	<-s.joined
	s.say(t, "one")
	p.until(t, "* one")
	s.listener.cut()
	for i := range 10 {
		s.say(t, fmt.Sprint(i))
	}
	before := p.until(t, "* 9")
	require.Equal(t, []string{"* missed here: 7, no longer kept by the server", "* 7", "* 8"}, before)
	p.in.Close()
	_, code := p.wait()
	require.Equal(t, 0, code, p.stderr.String())
}

// TestOthersCannotTouchTheTerminal: nothing of what others send moves a cursor.
func TestOthersCannotTouchTheTerminal(t *testing.T) {
	s := startHub(t)
	p := start(t, "-addr", s.addr, "-name", "alice")
	<-s.joined
	s.say(t, "\x1b[31mred\x07\u009b2J\u202e\rbob: forged")
	line, err := p.out.ReadString('\n')
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(line, "\uFFFD[31mred\uFFFD\uFFFD2J\uFFFD\n"), "got %q", line)
	line, err = p.out.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "    bob: forged\n", line)
	p.in.Close()
	_, code := p.wait()
	require.Equal(t, 0, code)
}

// TestRefusedLine: a line that the server does not take is reported, and no other is
// lost with it.
func TestRefusedLine(t *testing.T) {
	s := startHub(t, hub.WithMessageLimit(1000), hub.WithHandler(func(m *hub.Incoming) error {
		if string(m.Message.Data) == "bad" {
			return &hub.Refusal{Message: "mind your language"}
		}
		return nil
	}))
	stdout, stderr, code := pipe(t, "one\n"+strings.Repeat("x", 1000)+"\nbad\ntwo\n", "-addr", s.addr, "-name", "alice")
	require.Equal(t, 1, code)
	require.Equal(t, "alice: one\nalice: two\n", stdout)
	require.Contains(t, stderr, "not sent, longer than the server takes (1000 bytes): xxx")
	require.Contains(t, stderr, "not sent, mind your language: bad")
	require.Contains(t, stderr, "cli: 2 lines were not sent")
}

// TestSignal: SIGINT and SIGTERM leave as "exit" does.
func TestSignal(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		s := startHub(t)
		p := start(t, "-addr", s.addr, "-name", "alice")
		<-s.joined
		io.WriteString(p.in, "hi\n")
		p.until(t, "alice: hi")
		require.NoError(t, p.Process.Signal(sig))
		_, code := p.wait()
		require.Equal(t, 0, code, p.stderr.String())
		require.NoError(t, <-s.left)
	}
}

// TestComesAndGoes: others see who comes and goes.
func TestComesAndGoes(t *testing.T) {
	s := startHub(t)
	p := start(t, "-addr", s.addr, "-name", "alice")
	<-s.joined
	_, _, code := pipe(t, "hello\n", "-addr", s.addr, "-name", "bob")
	require.Equal(t, 0, code)
	p.until(t, "* bob joined")
	require.Empty(t, p.until(t, "bob: hello"))
	require.Empty(t, p.until(t, "* bob left"))
	p.in.Close()
	_, code = p.wait()
	require.Equal(t, 0, code)
}
