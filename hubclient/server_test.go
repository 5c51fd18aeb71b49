package hubclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/hubclient"
)

// A script is a server that says what it is told to: one function for each connection, the last one for all that
// follow.
type script struct {
	t     *testing.T
	steps []func(*said)

	mu    sync.Mutex // guards what follows
	n     int        // connections
	at    []time.Time
	since []string
}

// said is the server's end of a connection.
type said struct {
	t  *testing.T
	ws *websocket.Conn
}

func (s *script) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	step := s.steps[min(s.n, len(s.steps)-1)]
	s.n++
	s.at = append(s.at, time.Now())
	s.since = append(s.since, r.URL.Query().Get("since"))
	s.mu.Unlock()
	ws, err := websocket.Accept(rw, r, &websocket.AcceptOptions{Subprotocols: []string{"hub.v1.json"}})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	step(&said{s.t, ws})
}

// say sends events. A $ stands for a cursor: that of the seq that follows.
func (s *said) say(events ...string) {
	for _, e := range events {
		for {
			before, after, ok := strings.Cut(e, "$")
			if !ok {
				break
			}
			n := 0
			fmt.Sscanf(after, "%d", &n)
			e = before + cursor(n) + strings.TrimPrefix(after, fmt.Sprint(n))
		}
		_ = s.ws.Write(background, websocket.MessageText, []byte(e))
	}
}

func cursor(n int) string { return broker.Cursor{Epoch: "e", Seq: uint64(n), Tag: 1}.String() }

// hear returns the next command.
func (s *said) hear() (c struct{ Type, ID, Room, Since string }) {
	_, p, err := s.ws.Read(background)
	if err == nil {
		err = json.Unmarshal(p, &c)
	}
	if err != nil {
		c.Type = err.Error()
	}
	return c
}

// stay waits for the client to go.
func (s *said) stay() {
	for {
		if _, _, err := s.ws.Read(background); err != nil {
			return
		}
	}
}

func (s *said) close(code int) { _ = s.ws.Close(websocket.StatusCode(code), "because") }

func welcome(seq int, recovery string) string {
	return fmt.Sprintf(`{"type":"welcome","client":"c","user":"u","name":"n","room":"lobby","cursor":"$%d","seq":%[1]d,"recovery":%q,
		"members":[],"member_count":0,"limits":{"message_bytes":1000,"rate":0,"burst":0,"dedup_window_ms":600000,"ping_ms":30000,"rooms":2}}`, seq, recovery)
}

func message(seq, prev int) string {
	return fmt.Sprintf(`{"type":"message","room":"lobby","seq":%d,"prev":%d,"cursor":"$%[1]d","from":{},"time":"2026-01-30T12:34:56.789Z","data":"%[1]d"}`, seq, prev)
}

// scripted runs a client against a script.
func scripted(t *testing.T, f func(*script, *hubclient.Client), steps ...func(*said)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &script{t: t, steps: steps}
		w := newWorld(t)
		_ = w.srv.Close()
		w.serve(s)
		f(s, w.dial(hubclient.WithBackoff(every(time.Second))))
	})
}

// TestJoinedAgainWhileItLeaves: messages of a stay that the client is ending are none of the next stay's.
func TestJoinedAgainWhileItLeaves(t *testing.T) {
	games := func(event string) string { return strings.ReplaceAll(event, `"lobby"`, `"games"`) }
	scripted(t, func(_ *script, c *hubclient.Client) {
		ctx, cancel := context.WithTimeout(background, time.Second)
		defer cancel()
		_, err := c.Join(ctx, "games")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		elapse(1500 * time.Millisecond) // it was let in meanwhile, and leaves
		ctx, cancel = context.WithTimeout(background, 10*time.Second)
		defer cancel()
		w, err := c.Join(ctx, "games")
		if err != nil {
			t.Errorf("join: %v", err)
			_ = c.Close()
			return
		}
		require.Equal(t, uint64(6), w.Seq)
		var got []string
		for range 3 {
			e, err := c.Next(background)
			require.NoError(t, err)
			got = append(got, fmt.Sprint(e.Type, " ", e.Room))
		}
		require.Equal(t, []string{"welcome lobby", "welcome games", "message games"}, got)
		require.NoError(t, c.Close())
	}, func(s *said) {
		s.say(welcome(5, "new"))
		require.Equal(t, "join", s.hear().Type)
		elapse(2 * time.Second)
		s.say(games(welcome(5, "new")))
		leave := s.hear()
		require.Equal(t, "leave", leave.Type)
		elapse(time.Second) // the client is to join again meanwhile
		s.say(games(message(6, 5)), fmt.Sprintf(`{"type":"left_room","id":%q,"room":"games"}`, leave.ID))
		require.Equal(t, "join", s.hear().Type)
		s.say(games(welcome(6, "new")), games(message(7, 6)))
		s.stay()
	}, func(s *said) { s.stay() })
}

// TestBrokenPromises: a server that breaks the protocol is noticed, the caller is told, and the next connection goes on from
// where all was right.
func TestBrokenPromises(t *testing.T) {
	for name, tc := range map[string]struct {
		events []string
		err    string
	}{
		"a message twice":               {[]string{message(6, 5), message(7, 6), message(7, 6)}, "message 7 after 7"},
		"a seq that goes back":          {[]string{message(6, 5), message(7, 6), message(5, 4)}, "message 5 after 7"},
		"a hole":                        {[]string{message(6, 5), message(7, 6), message(9, 8)}, "message 9 follows 8, the last one was 7"},
		"a hole behind the welcome":     {[]string{message(7, 6)}, "message 7 follows 6, the last one was 5"},
		"a message before itself":       {[]string{message(6, 5), message(7, 6), message(8, 8)}, "says that 8 was before it"},
		"a gap that begins too late":    {[]string{message(6, 5), message(7, 6), `{"type":"gap","room":"lobby","after":8,"before":10}`}, "a gap after 8"},
		"a gap over what came":          {[]string{message(6, 5), message(7, 6), `{"type":"gap","room":"lobby","after":5,"before":7}`}, "a gap from 5 to 7 after 7"},
		"a message inside the gap":      {[]string{message(6, 5), message(7, 6), `{"type":"gap","room":"lobby","after":7,"before":10}`, message(8, 7)}, "message 8 after 9"},
		"a gap within a gap":            {[]string{message(6, 5), message(7, 6), `{"type":"gap","room":"lobby","after":7,"before":10}`, `{"type":"gap","room":"lobby","after":6,"before":12}`}, "a gap after 6"},
		"a hole after a gap":            {[]string{message(6, 5), message(7, 6), `{"type":"gap","room":"lobby","after":7,"before":10}`, message(12, 11)}, "message 12 follows 11"},
		"an ack of what was never sent": {[]string{message(6, 5), message(7, 6), `{"type":"ack","id":"x","seq":9}`}, `an ack of "x"`},
		"a second welcome":              {[]string{message(6, 5), message(7, 6), welcome(7, "new")}, "a second welcome"},
		"a welcome to no room of ours":  {[]string{message(6, 5), message(7, 6), strings.Replace(welcome(7, "new"), "lobby", "games", 1)}, "not asked for"},
		"no JSON":                       {[]string{message(6, 5), message(7, 6), `{"type":`}, "can't be read"},
		"another type of a field":       {[]string{message(6, 5), message(7, 6), `{"type":"message","seq":"8"}`}, "can't be read"},
		"a message without data":        {[]string{message(6, 5), message(7, 6), strings.Replace(message(8, 7), `"data"`, `"date"`, 1)}, "without data"},
		"a message without a cursor":    {[]string{message(6, 5), message(7, 6), strings.Replace(message(8, 7), `"cursor"`, `"curser"`, 1)}, "without a cursor"},
		"a direct message without data": {[]string{message(6, 5), message(7, 6), `{"type":"direct","room":"lobby"}`}, "signal that can't be read"},
	} {
		t.Run(name, func(t *testing.T) {
			last := 7
			if len(tc.events) == 1 {
				last = 5
			}
			scripted(t, func(s *script, c *hubclient.Client) {
				if last == 7 {
					require.Equal(t, numbers(6, 7), texts(t, c, 2))
				}
				e := until(t, c, hubclient.EventDisconnected)
				require.ErrorIs(t, e.Err, hubclient.ErrProtocol)
				require.ErrorContains(t, e.Err, tc.err)
				got := last
				if strings.Contains(name, "gap") && len(tc.events) > 3 { // which the caller knows of; it had no cursor
					got = 7
				}
				require.Equal(t, "recovered", until(t, c, hubclient.EventWelcome).Welcome.Recovery)
				require.Equal(t, numbers(got+1, got+1), texts(t, c, 1))
				require.Equal(t, []string{"", cursor(got)}, s.since)
			}, func(s *said) {
				s.say(welcome(5, "new"))
				s.say(tc.events...)
				s.stay()
			}, func(s *said) {
				s.say(welcome(last, "recovered"), message(last+1, last))
				s.stay()
			})
		})
	}
}

// TestBrokenWelcomes: nor is a welcome believed that is not right.
func TestBrokenWelcomes(t *testing.T) {
	for name, tc := range map[string]struct{ event, err string }{
		"another position":    {welcome(6, "recovered"), "recovered at 6, not at 5"},
		"as if it was new":    {welcome(5, "new"), `recovery "new"`},
		"another room":        {strings.Replace(welcome(5, "recovered"), "lobby", "games", 1), `a welcome to "games"`},
		"no cursor":           {strings.Replace(welcome(5, "recovered"), `"cursor"`, `"curser"`, 1), "without a room or a cursor"},
		"a message before it": {message(6, 5), "before the welcome"},
		"nothing":             {`{"type":"pong"}`, "before the welcome"},
	} {
		t.Run(name, func(t *testing.T) {
			scripted(t, func(s *script, c *hubclient.Client) {
				until(t, c, hubclient.EventDisconnected)
				e := until(t, c, hubclient.EventDisconnected)
				require.ErrorIs(t, e.Err, hubclient.ErrProtocol)
				require.ErrorContains(t, e.Err, tc.err)
				require.Equal(t, "recovered", until(t, c, hubclient.EventWelcome).Welcome.Recovery)
			}, func(s *said) {
				s.say(welcome(5, "new"))
			}, func(s *said) {
				s.say(tc.event)
				s.stay()
			}, func(s *said) {
				s.say(welcome(5, "recovered"))
				s.stay()
			})
		})
	}
}

// TestGaps: seqs need not be contiguous, and a gap is believed.
func TestGaps(t *testing.T) {
	scripted(t, func(s *script, c *hubclient.Client) {
		require.Equal(t, "7", until(t, c, hubclient.EventMessage).Message.Text())
		g := until(t, c, hubclient.EventGap).Gap
		require.Equal(t, hubclient.Gap{Room: "lobby", After: 7, Before: 20, Missed: -1, Cursor: cursor(19)}, *g)
		require.Equal(t, "22", until(t, c, hubclient.EventMessage).Message.Text())
		require.Equal(t, 3, until(t, c, hubclient.EventGap).Gap.Missed)
		g = until(t, c, hubclient.EventGap).Gap
		require.True(t, g.Reset)
		require.Equal(t, "2", until(t, c, hubclient.EventMessage).Message.Text())
		until(t, c, hubclient.EventGap)
		require.Equal(t, cursor(9), c.Cursor("lobby"))
		until(t, c, hubclient.EventDisconnected)
		until(t, c, hubclient.EventWelcome)
		require.Equal(t, cursor(9), s.since[1])
	}, func(s *said) {
		s.say(welcome(5, "new"), message(7, 5), `{"type":"gap","room":"lobby","after":7,"before":20,"cursor":"$19"}`,
			message(22, 18), `{"type":"gap","room":"lobby","after":22,"before":30,"missed":3}`,
			`{"type":"gap","room":"lobby","after":29,"before":1,"reset":true,"cursor":"$0"}`, message(2, 0),
			`{"type":"gap","room":"lobby","after":2,"before":10,"cursor":"$9"}`, `{"type":"something new"}`)
		synctest.Wait()
	}, func(s *said) {
		s.say(welcome(9, "recovered"))
		s.stay()
	})
}

// TestGapOfAnother: where the room began anew on one connection, what had been sent without an answer is uncertain too.
func TestGapOfAnother(t *testing.T) {
	scripted(t, func(s *script, c *hubclient.Client) {
		_, err := c.Publish(background, hubclient.Text("kept, and lost, or not"))
		require.ErrorIs(t, err, hubclient.ErrUncertain)
		require.Equal(t, uint64(1), publish(t, c, "anew").Seq)
	}, func(s *said) {
		s.say(welcome(5, "new"))
		s.say(fmt.Sprintf(`{"type":"error","id":%q,"code":"unavailable","message":"no","retry_after_ms":60000}`, s.hear().ID),
			`{"type":"gap","room":"lobby","after":5,"before":1,"reset":true,"cursor":"$0"}`)
		s.stay()
	}, func(s *said) {
		s.say(welcome(0, "recovered"))
		s.say(fmt.Sprintf(`{"type":"ack","id":%q,"seq":1}`, s.hear().ID))
		s.stay()
	})
}

// TestBackBehindAGap: where seqs have holes the position behind a gap is any of those that are missing.
func TestBackBehindAGap(t *testing.T) {
	scripted(t, func(s *script, c *hubclient.Client) {
		until(t, c, hubclient.EventGap)
		require.ErrorContains(t, until(t, c, hubclient.EventDisconnected).Err, "1012")
		require.Equal(t, "recovered", until(t, c, hubclient.EventWelcome).Welcome.Recovery)
		require.Equal(t, "12", until(t, c, hubclient.EventMessage).Message.Text())
		e := until(t, c, hubclient.EventDisconnected)
		require.ErrorContains(t, e.Err, "message 14 follows 11, the last one was 12")
		require.Equal(t, []string{"", cursor(8)}, s.since)
	}, func(s *said) {
		s.say(welcome(5, "new"), `{"type":"gap","room":"lobby","after":5,"before":10,"cursor":"$8"}`)
		s.close(1012)
	}, func(s *said) {
		s.say(welcome(8, "recovered"), message(12, 8), message(14, 11))
		s.stay()
	})
}

// TestCloseCodes: which of them mean to come back.
func TestCloseCodes(t *testing.T) {
	for code, back := range map[int]bool{
		1000: false, 1001: true, 1002: false, 1003: false, 1007: false, 1008: false, 1009: true, 1010: false, 1011: true,
		1012: true, 1013: true, 1014: true, 4000: true,
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			scripted(t, func(s *script, c *hubclient.Client) {
				until(t, c, hubclient.EventWelcome)
				var ce *hubclient.CloseError
				if back {
					require.ErrorAs(t, until(t, c, hubclient.EventDisconnected).Err, &ce)
					until(t, c, hubclient.EventWelcome)
				} else {
					_, err := c.Next(background)
					require.ErrorIs(t, err, io.EOF)
					require.ErrorAs(t, c.Err(), &ce)
				}
				require.Equal(t, []any{code, "because"}, []any{ce.Code, ce.Reason})
			}, func(s *said) {
				s.say(welcome(5, "new"))
				s.close(code)
			}, func(s *said) {
				s.say(welcome(5, "recovered"))
				s.stay()
			})
		})
	}
}

// TestTooBig: a message for which the server closes is not sent again; those behind it are.
func TestTooBig(t *testing.T) {
	scripted(t, func(s *script, c *hubclient.Client) {
		first, err := c.PublishAsync(background, hubclient.Text("1"))
		require.NoError(t, err)
		second, err := c.PublishAsync(background, hubclient.Text("2"))
		require.NoError(t, err)
		_, err = first.Result()
		requireCode(t, "too_large", err)
		r, err := second.Result()
		require.NoError(t, err)
		require.Equal(t, uint64(6), r.Seq)
		_, err = c.Publish(background, hubclient.Text(strings.Repeat("x", 1000)))
		requireCode(t, "too_large", err)
		require.ErrorContains(t, err, "longer than the server takes (1000 bytes)")
	}, func(s *said) {
		s.say(welcome(5, "new"))
		s.hear()
		s.hear()
		s.close(1009)
	}, func(s *said) {
		s.say(welcome(5, "recovered"))
		s.say(fmt.Sprintf(`{"type":"ack","id":%q,"seq":6}`, s.hear().ID))
		s.stay()
	})
}

// TestTooBigByOther: no message is told as not kept for another's size, nor one that may have been kept before.
func TestTooBigByOther(t *testing.T) {
	scripted(t, func(s *script, c *hubclient.Client) {
		var list []*hubclient.Publication
		for _, text := range []string{"1", strings.Repeat("2", 500), "3"} {
			p, err := c.PublishAsync(background, hubclient.Text(text))
			require.NoError(t, err)
			list = append(list, p)
		}
		for i, p := range list {
			_, err := p.Result()
			if i != 1 {
				require.NoError(t, err, i)
				continue
			}
			requireCode(t, "too_large", err)
			require.ErrorIs(t, err, hubclient.ErrUncertain)
		}
	}, func(s *said) {
		s.say(welcome(5, "new"))
		s.hear()
		s.hear()
		s.hear()
	}, func(s *said) {
		s.say(welcome(5, "recovered"))
		s.hear()
		s.hear()
		s.close(1009)
	}, func(s *said) {
		s.say(welcome(5, "recovered"))
		for range 2 {
			s.say(fmt.Sprintf(`{"type":"ack","id":%q,"seq":6}`, s.hear().ID))
		}
		s.stay()
	})
}

// TestRefusedForEver: whatever the server refuses for, it is not asked again and again without a pause.
func TestRefusedForEver(t *testing.T) {
	for _, code := range []string{"rate", "busy", "unavailable", "out_of_order", "draining"} {
		t.Run(code, func(t *testing.T) {
			var n atomic.Int32
			scripted(t, func(s *script, c *hubclient.Client) {
				for range 3 {
					_, err := c.PublishAsync(background, hubclient.Text("1"))
					require.NoError(t, err)
				}
				elapse(5 * time.Minute)
				require.Greater(t, n.Load(), int32(10))
				require.Less(t, n.Load(), int32(100))
			}, func(s *said) {
				s.say(welcome(5, "new"))
				for {
					cmd := s.hear()
					if cmd.Type != "publish" && cmd.Type != "ping" {
						return
					}
					if cmd.Type == "publish" {
						n.Add(1)
						s.say(fmt.Sprintf(`{"type":"error","id":%q,"code":%q,"message":"no"}`, cmd.ID, code))
					}
				}
			})
		})
	}
}

// TestHeldInAnotherRoom: the message that the server waits for is sent before older ones of a room that is back only now, and
// where its own room is closed meanwhile, nobody asks without end for what the server does not take.
func TestHeldInAnotherRoom(t *testing.T) {
	const n = 100 // more than go out at once
	for _, held := range []string{"lobby", "games"} {
		t.Run(held, func(t *testing.T) {
			asked := 0
			scripted(t, func(s *script, c *hubclient.Client) {
				_, err := c.Join(background, "games")
				require.NoError(t, err)
				until(t, c, hubclient.EventDisconnected)
				var list []*hubclient.Publication
				for i := range n + 1 {
					m := hubclient.Text(fmt.Sprint(i))
					if held == "lobby" && i < n || held == "games" && i == 0 {
						m.Room = "games"
					}
					p, err := c.PublishAsync(background, m)
					require.NoError(t, err)
					list = append(list, p)
				}
				for _, p := range list {
					_, err := p.Result()
					require.NoError(t, err)
				}
				require.Less(t, asked, 3*n)
			}, func(s *said) {
				s.say(welcome(5, "new"))
				s.hear()
				s.say(strings.Replace(welcome(5, "new"), "lobby", "games", 1))
				synctest.Wait()
			}, func(s *said) {
				s.say(welcome(5, "recovered"))
				games := strings.Replace(welcome(5, "recovered"), "lobby", "games", 1)
				blocked, first := "", true
				for asked < 5*n {
					cmd := s.hear()
					switch {
					case cmd.Type == "join" && held == "games" && first:
						s.say(games)
						continue
					case cmd.Type == "join":
						time.AfterFunc(50*time.Millisecond, func() { s.say(games) })
						continue
					case cmd.Type != "publish":
						return
					}
					asked++
					switch {
					case blocked != "" && cmd.ID != blocked:
						s.say(fmt.Sprintf(`{"type":"error","id":%q,"code":"out_of_order","message":"no"}`, cmd.ID))
					case first && cmd.Room == held:
						blocked, first = cmd.ID, false
						s.say(fmt.Sprintf(`{"type":"error","id":%q,"code":"busy","message":"no","retry_after_ms":100}`, cmd.ID))
						if held == "games" {
							s.say(`{"type":"left_room","room":"games","reason":"shutdown"}`)
						}
					default:
						blocked = ""
						s.say(fmt.Sprintf(`{"type":"ack","id":%q,"seq":6}`, cmd.ID))
					}
				}
			}, func(s *said) {
				s.say(welcome(5, "recovered"))
				for {
					switch cmd := s.hear(); cmd.Type {
					case "join":
						s.say(strings.Replace(welcome(5, "recovered"), "lobby", "games", 1))
					case "publish":
						s.say(fmt.Sprintf(`{"type":"ack","id":%q,"seq":6}`, cmd.ID))
					default:
						return
					}
				}
			})
		})
	}
}

// TestPoison: a message on which the server fails each time is given up.
func TestPoison(t *testing.T) {
	scripted(t, func(s *script, c *hubclient.Client) {
		_, err := c.Publish(background, hubclient.Text("1"))
		require.ErrorIs(t, err, hubclient.ErrUncertain)
		require.ErrorContains(t, err, "1011")
		require.Equal(t, 3, s.n)
	}, func(s *said) {
		s.say(welcome(5, "new"))
		s.hear()
		s.close(1011)
	}, func(s *said) {
		s.say(welcome(5, "recovered"))
		s.hear()
		s.close(1011)
	})
}

// TestHandshakes: which answers end a client, and for how long the server is left alone after the others.
func TestHandshakes(t *testing.T) {
	for _, tc := range []struct {
		status int
		after  string
		wait   time.Duration // -1: final
	}{
		{400, "", -1}, {401, "", -1}, {403, "", -1}, {404, "", -1}, {405, "", -1}, {426, "", -1}, {501, "", -1}, {200, "", -1},
		{500, "", 0}, {502, "", 0}, {503, "", 0}, {504, "", 0}, {408, "", 0}, {429, "", 0},
		{429, "7", 7 * time.Second}, {503, "Sat, 01 Jan 2000 00:01:05 GMT", time.Minute}, {503, "1e9", 0}, {503, "999999999", time.Hour}, {503, "-3", 0},
	} {
		t.Run(fmt.Sprint(tc.status, tc.after), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				_ = w.srv.Close()
				s := &script{t: t, steps: []func(*said){func(s *said) { s.say(welcome(5, "new")) }, func(s *said) { s.say(welcome(5, "recovered")); s.stay() }}}
				refuse := true
				var refused time.Time
				w.serve(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if s.n == 1 && refuse {
						refuse = false
						refused = time.Now()
						if tc.after != "" {
							rw.Header().Set("Retry-After", tc.after)
						}
						http.Error(rw, "go away\nplease", tc.status)
						return
					}
					s.ServeHTTP(rw, r)
				}))
				elapse(4 * time.Second)
				c := w.dial(hubclient.WithBackoff(every(time.Second)))
				until(t, c, hubclient.EventWelcome)
				if tc.wait < 0 {
					until(t, c, hubclient.EventDisconnected)
					_, err := c.Next(background)
					require.ErrorIs(t, err, io.EOF)
					want := "go away"
					if tc.status < 400 {
						want = "it does not speak WebSocket"
					}
					var h *hubclient.HandshakeError
					require.ErrorAs(t, c.Err(), &h)
					require.Equal(t, []any{tc.status, want}, []any{h.Status, h.Message})
					return
				}
				until(t, c, hubclient.EventWelcome)
				if strings.HasSuffix(tc.after, "GMT") {
					require.Equal(t, 5, s.at[1].Minute()*60+s.at[1].Second()-60-1)
					return
				}
				require.Equal(t, tc.wait+time.Second, s.at[1].Sub(refused))
			})
		})
	}
}

// TestDial: the first attempt fails at once, unless it is to go on.
func TestDial(t *testing.T) {
	for url, want := range map[string]string{
		"ftp://hub.test/room/lobby": "scheme", "ws://": "no host", "ws://hub.test/\x00": "invalid", "lobby": "scheme",
	} {
		_, err := hubclient.Dial(background, url)
		require.ErrorContains(t, err, want)
	}
	inBubble(t, func(w *world) {
		_ = w.srv.Close()
		dials := 0
		w.serve(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			dials++
			if ws, err := websocket.Accept(rw, r, nil); err == nil {
				_ = ws.CloseNow()
			}
		}))
		_, err := w.tryDial("ws://hub.test/room/lobby", hubclient.WithDialRetry())
		var h *hubclient.HandshakeError
		require.ErrorAs(t, err, &h, "a WebSocket server that is no hub")
		require.Equal(t, []any{101, "it does not speak hub.v1.json", 1}, []any{h.Status, h.Message, dials})
	})
	inBubble(t, func(w *world) {
		_, err := w.tryDial("ws://hub.test/room/a%2Fb")
		var h *hubclient.HandshakeError
		require.ErrorAs(t, err, &h)
		require.Equal(t, 400, h.Status)
		_, err = w.tryDial("ws://hub.test/room/lobby", hubclient.WithName("a:b"))
		require.ErrorAs(t, err, &h, "what a person typed is no reason to panic")
		require.Equal(t, 400, h.Status)
		require.Contains(t, h.Message, "name")
		_, err = w.tryDial("ws://hub.test/elsewhere", hubclient.WithDialRetry())
		require.ErrorAs(t, err, &h)
		require.Equal(t, 404, h.Status, "final all the same")

		_ = w.net.Close()
		_, err = w.tryDial("ws://hub.test/room/lobby")
		require.ErrorContains(t, err, "refused")
		ctx, cancel := context.WithTimeout(background, time.Minute)
		defer cancel()
		_, err = hubclient.Dial(ctx, "ws://hub.test/room/lobby", hubclient.WithHTTPClient(w.http), hubclient.WithDialRetry())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.AfterFunc(time.Minute, func() { w.serve(w.hub) })
		c, err := hubclient.Dial(background, "ws://hub.test/room/lobby", hubclient.WithHTTPClient(w.http), hubclient.WithDialRetry())
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.NoError(t, c.Close())
	})
	transport := http.DefaultTransport
	defer func() { http.DefaultTransport = transport }()
	http.DefaultTransport = tracing{}
	_, err := hubclient.Dial(background, "ws://hub.test/room/lobby")
	require.ErrorContains(t, err, "traced")
	for name, bad := range map[string]func(){
		"backoff": func() { hubclient.WithBackoff(nil) }, "history": func() { hubclient.WithHistory(1001) },
		"outbox": func() { hubclient.WithOutbox(0, 1) }, "queue": func() { hubclient.WithQueue(1, 0) }, "join": func() { hubclient.JoinHistory(-1) },
	} {
		require.Panics(t, bad, name)
	}
}

// A tracing transport is what some put in the place of net/http's.
type tracing struct{}

func (tracing) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("traced") }

// TestRedirects: a handshake is sent elsewhere, with no secret of the first URL, and not without end.
func TestRedirects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_ = w.srv.Close()
		var most, n atomic.Int32
		w.serve(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Referer") != "" {
				t.Errorf("tells where it comes from: %q", r.Header.Get("Referer"))
			}
			if n.Add(1) > most.Load() {
				w.hub.ServeHTTP(rw, r)
				return
			}
			http.Redirect(rw, r, "/room/lobby", http.StatusTemporaryRedirect)
		}))
		most.Store(5)
		_, err := w.tryDial("ws://hub.test/room/lobby?session=AAAAAAAAAAAAAAAAAAAAAA")
		require.NoError(t, err)
		n.Store(0)
		most.Store(1000)
		_, err = w.tryDial("ws://hub.test/room/lobby")
		require.ErrorContains(t, err, "10 redirects")
		require.Equal(t, int32(10), n.Load())
	})
}

// TestDialCallback: a callback may wait for what Dial returns, whatever that is.
func TestDialCallback(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			_ = w.srv.Close()
			ctx, cancel := context.WithCancel(background)
			w.serve(&script{t: t, steps: []func(*said){func(s *said) {
				go cancel()
				s.say(welcome(5, "new"))
				s.stay()
			}}})
			returned := make(chan struct{})
			c, err := hubclient.Dial(ctx, "ws://hub.test/room/lobby", hubclient.WithHTTPClient(w.http),
				hubclient.WithCallback(func(hubclient.Event) { <-returned }))
			close(returned)
			if err == nil {
				require.NoError(t, c.Close())
			}
		})
	}
}

// TestHeader: a token is asked for before each handshake.
func TestHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_ = w.srv.Close()
		var tokens []string
		w.serve(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			tokens = append(tokens, r.Header.Get("Authorization"))
			w.hub.ServeHTTP(rw, r)
		}))
		n := 0
		c := w.dial(hubclient.WithHeader(func(context.Context) (http.Header, error) {
			if n++; n == 2 {
				return nil, errors.New("no token now")
			}
			return http.Header{"Authorization": {fmt.Sprint("Bearer ", n)}}, nil
		}), hubclient.WithName("alice"))
		until(t, c, hubclient.EventWelcome)
		w.cut()
		until(t, c, hubclient.EventWelcome)
		require.Equal(t, []string{"Bearer 1", "Bearer 3"}, tokens)
	})
}

// TestUnread: a caller who takes no events can publish all the same, within bounds, and misses nothing when it takes them again.
func TestUnread(t *testing.T) {
	inBubble(t, func(w *world) {
		const n = 2000
		alice := w.dial(hubclient.WithName("alice"), hubclient.WithQueue(50, 1<<20))
		for i := range n {
			publish(t, alice, fmt.Sprint(i+1))
		}
		require.Equal(t, numbers(1, n), texts(t, alice, n))
	}, fast, hub.WithHistory(5000, time.Hour))
}

// TestUnreadEnd: to let events go by ends no message's hopes of an answer, and hides no end of a stay.
func TestUnreadEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_ = w.srv.Close()
		w.serve(&script{t: t, steps: []func(*said){func(s *said) {
			s.say(welcome(5, "new"))
			s.hear()
			s.say(strings.Replace(welcome(5, "new"), "lobby", "games", 1), message(6, 5), message(7, 6), message(8, 7))
			id := s.hear().ID
			elapse(3 * time.Second)
			s.say(`{"type":"left_room","room":"games","reason":"kicked"}`, fmt.Sprintf(`{"type":"ack","id":%q,"seq":9}`, id))
			id = s.hear().ID
			elapse(3 * time.Second)
			s.say(fmt.Sprintf(`{"type":"ack","id":%q,"reached":1}`, id))
			s.stay()
		}, func(s *said) {
			s.say(welcome(6, "recovered"))
			s.stay()
		}}})
		c := w.dial(hubclient.WithQueue(3, 1<<20))
		_, err := c.Join(background, "games")
		require.NoError(t, err)
		publish(t, c, "behind what nobody reads")
		require.Equal(t, []string{"lobby"}, c.Rooms())
		m := hubclient.Text("psst")
		m.To.User = "u"
		direct, err := c.PublishAsync(background, m)
		require.NoError(t, err)
		elapse(time.Second)
		require.Equal(t, "kicked", until(t, c, hubclient.EventLeftRoom).Reason)
		require.ErrorIs(t, until(t, c, hubclient.EventDisconnected).Err, hubclient.ErrLagged)
		require.Equal(t, "recovered", until(t, c, hubclient.EventWelcome).Welcome.Recovery)
		r, err := direct.Result()
		require.NoError(t, err)
		require.Equal(t, 1, r.Reached)
	})
}

// TestCallback: it may do what it likes, also publish and close.
func TestCallback(t *testing.T) {
	inBubble(t, func(w *world) {
		const n = 300
		var got []string
		var echo *hubclient.Client
		ready := make(chan struct{})
		opts := []hubclient.Option{hubclient.WithName("echo"), hubclient.WithQueue(20, 1<<20), hubclient.WithCallback(func(e hubclient.Event) {
			<-ready
			if e.Type != hubclient.EventMessage || e.Message.From.Name == "echo" {
				return
			}
			publish(t, echo, "echo "+e.Message.Text())
			got = append(got, e.Message.Text())
			if len(got) == n {
				_ = echo.Close()
			}
		})}
		echo = w.dial(opts...)
		close(ready)
		_, err := echo.Next(background)
		require.ErrorContains(t, err, "callback")
		alice := w.dial(hubclient.WithName("alice"))
		for i := range n {
			publish(t, alice, fmt.Sprint(i+1))
		}
		<-echo.Done()
		require.NoError(t, echo.Err())
		require.Equal(t, numbers(1, n), got)
	}, fast, hub.WithHistory(5000, time.Hour))
}

// TestSlowReader: who reads slowly is waited for, and gets everything.
func TestSlowReader(t *testing.T) {
	for name, policy := range map[string]hub.SlowPolicy{"disconnect": hub.Disconnect, "drop oldest": hub.DropOldest} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				room, err := w.hub.Room("lobby")
				require.NoError(t, err)
				bob := w.dial(hubclient.WithQueue(10, 1<<20))
				body := strings.Repeat("x", 1000)
				for range 500 {
					_, err := room.Publish(background, hub.Text(body))
					require.NoError(t, err)
					elapse(time.Millisecond)
				}
				elapse(5 * time.Minute)
				want := uint64(1)
				for want <= 500 {
					e, err := bob.Next(background)
					require.NoError(t, err)
					switch e.Type {
					case hubclient.EventMessage:
						require.Equal(t, want, e.Message.Seq)
						want++
					case hubclient.EventGap:
						require.Equal(t, want-1, e.Gap.After)
						want = e.Gap.Before
					}
					elapse(100 * time.Millisecond)
				}
			}, hub.WithHistory(1000, time.Hour), hub.WithSlowPolicy(policy), hub.WithQueue(50, 100_000), hub.WithLogger(slog.New(slog.DiscardHandler)))
		})
	}
}

// TestCloseIsClean: others see at once that a client has left.
func TestCloseIsClean(t *testing.T) {
	inBubble(t, func(w *world) {
		alice, bob := w.dial(hubclient.WithName("alice")), w.dial(hubclient.WithName("bob"))
		until(t, bob, hubclient.EventJoined)
		start := time.Now()
		require.NoError(t, alice.Close())
		e := until(t, bob, hubclient.EventLeft)
		require.Equal(t, []any{"alice", ""}, []any{e.Member.Name, e.Reason})
		require.Zero(t, time.Since(start))
		<-alice.Done()

		// Also where the server says nothing any more.
		carol := w.dial(hubclient.WithName("carol"))
		w.last().Stall(true)
		start = time.Now()
		require.NoError(t, carol.Close())
		require.LessOrEqual(t, time.Since(start), 2*time.Second)
		<-carol.Done()
	})
}

// TestRefusedWhenRepeated: a message that was sent before without an answer may have been kept, however it is refused
// when it comes again, and however soon.
func TestRefusedWhenRepeated(t *testing.T) {
	for name, second := range map[string]func(*said){
		"by an error": func(s *said) {
			s.say(welcome(5, "recovered"))
			s.say(fmt.Sprintf(`{"type":"error","id":%q,"code":"refused","message":"no"}`, s.hear().ID))
			s.stay()
		},
		"by a close": func(s *said) {
			s.say(welcome(5, "recovered"))
			s.hear()
			s.close(1009)
		},
		"by a smaller limit": func(s *said) {
			s.say(strings.Replace(welcome(5, "recovered"), `"message_bytes":1000`, `"message_bytes":10`, 1))
			s.stay()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{t: t, steps: []func(*said){func(s *said) {
					s.say(welcome(5, "new"))
					s.hear()
				}, second}}
				w := newWorld(t)
				_ = w.srv.Close()
				w.serve(s)
				c := w.dial(hubclient.WithBackoff(every(0)))
				_, err := c.Publish(background, hubclient.Text("1"))
				require.ErrorIs(t, err, hubclient.ErrUncertain)
				var e *hubclient.Error
				require.ErrorAs(t, err, &e, "and why it was not repeated")
			})
		})
	}
}
