package hubclient

import (
	"context"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/internal/wire"
)

// TestJoinAsItsContextEnds: whichever comes first, the client is in the room and Join says so, or it is not, on the server
// neither.
func TestJoinAsItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLink(t)
		c := l.c
		hear := func(room string) {
			var f frame
			require.NoError(t, json.Unmarshal([]byte(`{"type":"welcome","user":"u","room":"`+room+`","cursor":"c","seq":5,"recovery":"new"}`), &f))
			_, err := l.welcome(&f)
			require.NoError(t, err)
		}
		c.mu.Lock()
		hear("lobby")
		c.mu.Unlock()
		for range 100 {
			ctx, cancel := context.WithCancel(context.Background())
			joined := make(chan error, 1)
			go func() {
				_, err := c.Join(ctx, "games")
				joined <- err
			}()
			synctest.Wait()
			p, _, err := l.next(l.heard)
			require.NoError(t, err)
			require.Contains(t, string(p), `"join"`)
			c.mu.Lock()
			cancel()
			hear("games")
			c.mu.Unlock()
			err = <-joined
			c.mu.Lock()
			in, leaving := c.rooms["games"] != nil, c.request("", wire.CommandLeave, "games")
			require.Equal(t, in, err == nil)
			require.Equal(t, in, leaving == nil, "the server has let it in")
			if leaving != nil {
				c.answer(leaving, nil, nil)
			}
			c.forget("games")
			c.mu.Unlock()
		}
	})
}

// TestFrameMemory: an event takes no many times its bytes in memory, whatever is in it.
func TestFrameMemory(t *testing.T) {
	p := []byte(`{"type":"history","messages":[` + strings.Repeat("{},", 100_000) + `{}]}`)
	var before, after runtime.MemStats
	var f frame
	runtime.GC()
	runtime.ReadMemStats(&before)
	require.NoError(t, json.Unmarshal(p, &f))
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(20*len(p)))
	runtime.KeepAlive(f)
}
