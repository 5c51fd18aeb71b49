package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/hubclient"
)

// talk is the chat without its process, with input that is there at once. It returns what the room said.
func talk(t *testing.T, s *server, c *chat, lines ...string) (said []string, err error) {
	u, err := roomURL(s.addr, "lobby")
	require.NoError(t, err)
	input := make(chan string, len(lines))
	for _, text := range lines {
		input <- text
	}
	if c.quit == nil {
		close(input)
	}
	c.input = input
	c.note, c.state = func(string) {}, func(bool) {}
	c.say = func(text string) { said = append(said, text) }
	return said, c.run(u, "alice")
}

// silentHub is one that gives no answer to a publish before the test ends. It tells of each one.
func silentHub(t *testing.T) (s *server, asked <-chan string) {
	said, done := make(chan string, 100), make(chan struct{})
	s = startHub(t, hub.WithHandler(func(m *hub.Incoming) error {
		said <- string(m.Message.Data)
		<-done
		return nil
	}))
	t.Cleanup(func() { close(done) }) // before the hub shuts down
	return s, said
}

// TestOffline: who types at a terminal before there is a connection hears of it, and when it is
// too much.
func TestOffline(t *testing.T) {
	var notes []string
	c := &chat{note: func(s string) { notes = append(notes, s) }}
	for i := range maxLines {
		c.typed(fmt.Sprint("line ", i), true)
	}
	require.Len(t, notes, maxLines)
	require.Equal(t, "* waiting for the connection: line 255", notes[maxLines-1])
	c.typed("one more", true)
	c.typed(" ", true)
	require.Equal(t, "* not sent: 256 lines are waiting already", notes[maxLines])
	require.Len(t, notes, maxLines+1)
	require.EqualError(t, c.result(), "256 lines were not sent")

	notes = nil
	c = &chat{note: c.note, online: true}
	c.typed("online", true)
	require.Empty(t, notes)
}

// TestEarly: what was typed before the first connection goes out with it.
func TestEarly(t *testing.T) {
	s := startHub(t)
	c := &chat{grace: time.Minute, lines: []line{{text: "one"}, {text: "two"}}}
	said, err := talk(t, s, c, "three")
	require.NoError(t, err)
	require.Equal(t, []string{"alice: one", "alice: two", "alice: three"}, said)
}

// TestNoAnswer: at the end lines wait for a while.
func TestNoAnswer(t *testing.T) {
	s, _ := silentHub(t)
	_, err := talk(t, s, &chat{wait: true, grace: 50 * time.Millisecond}, "one", "two")
	require.EqualError(t, err, "2 lines were not sent")
}

// TestSlowPace: they wait as long as it takes where the server takes few lines.
func TestSlowPace(t *testing.T) {
	s := startHub(t, hub.WithPublishRate(0.5, 1))
	said, err := talk(t, s, &chat{wait: true, grace: time.Second}, "one", "two")
	require.NoError(t, err)
	require.Equal(t, []string{"alice: one", "alice: two"}, said)
}

// TestPaceIsLateNews: the pace may come to be known when the input has ended already.
func TestPaceIsLateNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &chat{wait: true, grace: time.Second, note: func(string) {}, state: func(bool) {}, client: new(hubclient.Client)}
		c.lines = []line{{text: "one"}}
		began := time.Now()
		c.leave()
		c.welcome(&hubclient.Welcome{Limits: hubclient.Limits{Rate: 0.5}})
		<-c.hurry
		require.Equal(t, 3*time.Second, time.Since(began))
	})
}

// TestSignals: the first one waits for what was typed, the second one for nothing.
func TestSignals(t *testing.T) {
	for n, want := range map[int]string{1: "1 line was not sent", 2: "interrupted"} {
		s, asked := silentHub(t)
		quit := make(chan os.Signal, 2)
		go func() {
			<-asked
			for range n {
				quit <- os.Interrupt
			}
		}()
		grace := time.Hour
		if n == 1 {
			grace = 50 * time.Millisecond
		}
		_, err := talk(t, s, &chat{quit: quit, grace: grace}, "one")
		require.EqualError(t, err, want)
	}
}

// TestSignalBeforeTheConnection: nothing is waited for.
func TestSignalBeforeTheConnection(t *testing.T) {
	s := startHub(t)
	var asked atomic.Bool
	quit := make(chan os.Signal, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/room", func(_ http.ResponseWriter, r *http.Request) {
		asked.Store(true)
		quit <- os.Interrupt
		<-r.Context().Done()
	})
	s.mux.Store(mux)
	_, err := talk(t, s, &chat{quit: quit, grace: time.Hour})
	require.NoError(t, err)
	require.True(t, asked.Load())
}

// TestRestart: a server that is stopped and started again has another history.
func TestRestart(t *testing.T) {
	s := startHub(t)
	p := start(t, "-addr", s.addr, "-name", "alice")
	<-s.joined
	io.WriteString(p.in, "one\n")
	require.Empty(t, p.until(t, "alice: one"))
	stopped := s.Hub
	s.open(t)
	require.NoError(t, stopped.Shutdown(context.Background()))
	io.WriteString(p.in, "two\n")
	require.Empty(t, p.until(t, "alice: two"))
	p.in.Close()
	_, code := p.wait()
	require.Equal(t, 0, code, p.stderr.String())
	notes := strings.Split(p.stderr.String(), "\n")
	require.Len(t, notes, 4, p.stderr.String())
	require.Equal(t, "* connected to lobby as alice, nobody else is here", notes[0])
	require.Regexp(t, `^\* connection lost: .+; trying to connect again$`, notes[1])
	require.Equal(t, "* connected again, but the room's history is another one: messages may be missing", notes[2])
}

// TestKilled: a line that the server got, and died before it answered, is told of and not sent to
// the next one. Those behind it are.
func TestKilled(t *testing.T) {
	s, asked := silentHub(t)
	p := start(t, "-addr", s.addr, "-name", "alice")
	<-s.joined
	io.WriteString(p.in, "one\n")
	require.Equal(t, "one", <-asked)
	s.open(t)
	s.listener.cut()
	<-s.joined
	io.WriteString(p.in, "two\n")
	require.Empty(t, p.until(t, "alice: two"))
	p.in.Close()
	_, code := p.wait()
	require.Equal(t, 1, code)
	require.Contains(t, p.stderr.String(), "* not known if this was sent: one\n")
	require.True(t, strings.HasSuffix(p.stderr.String(), "cli: 1 line was not sent\n"), p.stderr.String())
}
