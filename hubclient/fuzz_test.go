package hubclient

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"

	"github.com/chathub-go/hub/internal/wsconn"
)

// newTestLink is a client with a connection that takes events and sends nothing.
func newTestLink(t testing.TB) *link {
	conn := new(wsconn.ClientConn)
	c := &Client{
		o: newOptions(nil), url: &url.URL{}, wake: make(chan struct{}, 1), ended: make(chan struct{}), first: make(chan struct{}),
		rooms: make(map[string]*room), typing: make(map[string]bool),
	}
	c.places = semaphore.NewWeighted(int64(c.o.outboxBytes))
	c.outbox = outbox{byID: make(map[string]*Publication), rooms: c.inRoom}
	c.events = newQueue(&c.o, c.ended, c.wake)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	t.Cleanup(c.cancel)
	l := &link{c: c, conn: conn, began: time.Now(), heard: time.Now(), done: make(chan struct{})}
	c.link = l
	return l
}

// FuzzEvents: whatever a server sends, the client does not crash, keeps to its bounds, and hands out each room's messages in
// order.
func FuzzEvents(f *testing.F) {
	const hi = `{"type":"welcome","client":"c","user":"u","name":"n","room":"lobby","cursor":"c5","seq":5,"recovery":"new","members":[],"limits":{"rate":1,"burst":1,"dedup_window_ms":1000,"ping_ms":1}}`
	f.Add(hi + "\n" + `{"type":"message","room":"lobby","seq":6,"prev":5,"cursor":"c6","from":{},"time":"2026-01-30T12:34:56.789Z","data":"x"}` + "\n" +
		`{"type":"gap","room":"lobby","after":6,"before":9,"missed":2,"cursor":"c8"}` + "\n" + `{"type":"ack","id":"1"}`)
	f.Add(hi + "\n" + `{"type":"error","id":"1","code":"rate","retry_after_ms":99999999999999}` + "\n" + `{"type":"error","id":"1","code":"out_of_order"}`)
	f.Add(hi + "\n" + `{"type":"left_room","room":"lobby","reason":"shutdown"}` + "\n" + hi + "\n" + `{"type":"left_room","room":"lobby","reason":"kicked"}`)
	f.Add(hi + "\n" + `{"type":"drain","reconnect_after_ms":-1}` + "\n" + `{"type":"history","id":"h","messages":[{"seq":1}],"more":true}` + "\n" + `{"type":"presence","room":"lobby","members":[],"count":7}`)
	f.Add(hi + "\n" + `{"type":"direct","room":"lobby","data_base64":"AAE="}` + "\n" + `{"type":"signal","data":null}` + "\n" + `{"type":"joined","room":"lobby","member":{"user":"u"}}`)
	f.Fuzz(func(t *testing.T, script string) {
		l := newTestLink(t)
		c := l.c
		p := &Publication{c: c, id: "1", room: "lobby", command: []byte("{}"), done: make(chan struct{})}
		require.True(t, c.places.TryAcquire(c.weight(p)))
		c.outbox.add(p)
		seq := map[string]uint64{}
		for line := range strings.SplitSeq(script, "\n") {
			var fr frame
			if json.Unmarshal([]byte(line), &fr) != nil {
				break
			}
			e, err := l.take(&fr)
			if err != nil {
				require.ErrorIs(t, err, ErrProtocol)
				break
			}
			if e != nil {
				e.measure(len(line))
				c.mu.Lock()
				if !c.events.push(e) {
					c.events.pop()
				}
				c.moved(e)
				c.mu.Unlock()
				switch e.Type {
				case EventWelcome:
					seq[e.Room] = e.Welcome.Seq
				case EventMessage:
					require.Greater(t, e.Message.Seq, seq[e.Room])
					seq[e.Room] = e.Message.Seq
				case EventGap:
					if !e.Gap.Reset {
						require.GreaterOrEqual(t, e.Gap.Before, seq[e.Room]+1)
					}
					seq[e.Room] = e.Gap.Before - 1
				}
			}
			for range 3 {
				if _, _, err := l.next(time.Now()); err != nil {
					require.True(t, errors.Is(err, errNoAnswer) || errors.Is(err, ErrLagged))
				}
			}
			require.GreaterOrEqual(t, c.outbox.flight, 0)
			require.GreaterOrEqual(t, c.outbox.flightBytes, 0)
			require.GreaterOrEqual(t, c.outbox.doubtful, 0)
		}
		c.lost(l, &CloseError{Code: 1011})
		c.end(nil)
		require.Zero(t, c.outbox.doubtful)
		require.Zero(t, c.outbox.flight)
		require.Empty(t, c.requests)
		<-p.done
		require.True(t, c.places.TryAcquire(int64(c.o.outboxBytes)), "all places are free")
	})
}
