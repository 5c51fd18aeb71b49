package compat

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/internal/memnet"
)

// What the hub answers before the upgrade comes through whatever stands before it.
func TestRefusals(t *testing.T) {
	cases := []struct {
		name   string
		query  string
		header http.Header
		code   int
	}{
		{"plain GET", "", nil, http.StatusUpgradeRequired},
		{"foreign origin", "", upgrade("Origin", "https://elsewhere.example"), http.StatusForbidden},
		{"unknown subprotocol", "", upgrade("Sec-WebSocket-Protocol", "mqtt"), http.StatusBadRequest},
		{"no key", "", upgrade("Sec-WebSocket-Key", ""), http.StatusBadRequest},
		{"name", "?name=a:b", upgrade(), http.StatusBadRequest},
		{"cursor", "?since=garbage", upgrade("Sec-WebSocket-Protocol", "hub.v1.json"), http.StatusBadRequest},
	}
	for where, mount := range mounts {
		t.Run(where, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			t.Run("", func(t *testing.T) {
				h, _ := newHub()
				to := mount(t, h)
				for _, c := range cases {
					client := &http.Client{Transport: &http.Transport{TLSClientConfig: to.tls()}}
					req, err := http.NewRequest("GET", "http"+strings.TrimPrefix(to.url, "ws")+c.query, nil)
					require.NoError(t, err)
					if c.header != nil {
						req.Header = c.header.Clone()
					}
					resp, err := client.Do(req)
					require.NoError(t, err, c.name)
					body, err := io.ReadAll(resp.Body)
					require.NoError(t, err, c.name)
					require.NoError(t, resp.Body.Close())
					require.Equal(t, c.code, resp.StatusCode, "%s: %s", c.name, body)
					client.CloseIdleConnections()
				}
				require.NoError(t, h.Shutdown(context.Background()))
			})
		})
	}
}

// upgrade is the header of a request for a WebSocket, changed by pairs; "" takes one out.
func upgrade(pairs ...string) http.Header {
	h := http.Header{
		"Connection":            {"Upgrade"},
		"Upgrade":               {"websocket"},
		"Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key":     {"dGhlIHNhbXBsZSBub25jZQ=="}, // RFC 6455 section 1.3
	}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
		if pairs[i+1] == "" {
			h.Del(pairs[i])
		}
	}
	return h
}

// A page of the same host may connect, through proxies too.
func TestSameOrigin(t *testing.T) {
	for where, mount := range mounts {
		t.Run(where, func(t *testing.T) {
			h, saw := newHub()
			to := mount(t, h)
			page := "http" + strings.TrimPrefix(strings.TrimSuffix(to.url, "/chat/lobby"), "ws")
			d := websocket.Dialer{TLSClientConfig: to.tls()}
			conn, _, err := d.Dial(to.url+"?name=alice", http.Header{"Origin": {page}})
			require.NoError(t, err)
			<-saw.joined
			require.NoError(t, conn.Close())
			require.NoError(t, h.Shutdown(context.Background()))
		})
	}
}

// The timeouts of an http.Server are for requests: a socket outlives them all.
func TestSocketOutlivesServerTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, saw := newHub()
		l := memnet.Listen()
		s := &http.Server{
			Handler:           mux(h),
			ReadHeaderTimeout: time.Second,
			ReadTimeout:       time.Second,
			WriteTimeout:      time.Second,
			IdleTimeout:       time.Second,
		}
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()

		d := websocket.Dialer{NetDialContext: l.DialContext}
		conn, _, err := d.Dial("ws://hub/chat/lobby?name=alice", nil)
		require.NoError(t, err)
		atHub := <-saw.joined
		echo := make(chan string, 100)
		go func() { // reads all the time, and so answers pings
			defer close(echo)
			for {
				_, text, err := conn.ReadMessage()
				if err != nil {
					return
				}
				echo <- string(text)
			}
		}()
		for range 3 {
			<-time.After(time.Hour)
			require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte("still here")))
			for text := range echo {
				if text == "alice: still here" {
					break
				}
			}
		}
		require.NoError(t, h.Shutdown(context.Background()))
		<-atHub.Done()
		for range echo { // until it is closed
		}
		require.NoError(t, conn.Close())
		require.NoError(t, s.Shutdown(context.Background()))
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}

// A binary frame stays one on the plain door, byte for byte.
func TestBinary(t *testing.T) {
	h, saw := newHub(hub.WithPublishRate(0, 0))
	to := mountServer(t, h)
	conn, _, err := websocket.DefaultDialer.Dial(to.url+"?name=alice", nil)
	require.NoError(t, err)
	<-saw.joined
	sent := []byte{0, 0xff, 0xfe, '\n', 0x80}
	require.NoError(t, conn.WriteMessage(websocket.BinaryMessage, sent))
	for {
		kind, got, err := conn.ReadMessage()
		require.NoError(t, err)
		if kind == websocket.BinaryMessage {
			require.Equal(t, sent, got)
			break
		}
	}
	require.NoError(t, conn.Close())
	require.NoError(t, h.Shutdown(context.Background()))
}
