package compat

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/internal/memnet"
)

// A client that reads one byte a second and answers pings as it comes to them: it gets all that fits its
// bounds, hours later.
func TestWireOneByteASecond(t *testing.T) {
	for path := range paths {
		timeout := 10 * time.Second // for one byte
		if paths[path].tls {
			timeout = 5 * time.Hour // for one record
		}
		t.Run(path, func(t *testing.T) { oneByteASecond(t, path, timeout) })
	}
}

func oneByteASecond(t *testing.T, path string, timeout time.Duration) {
	inBubbleBy(t, path, []memnet.Option{memnet.WithBuffer(40)}, func(t *testing.T, b *bubble) {
		slow, c := b.dial("", "")
		healthy, _ := b.dial("", "")
		slow.chunk, slow.every = 1, time.Second
		start := time.Now()
		all := distinct(16, 1000)
		b.publish(all...)
		healthy.expect(t, all...)
		require.Zero(t, time.Since(start), "others don't wait")
		go func() { // it answers pings
			for {
				if _, err := healthy.message(); err != nil {
					return
				}
			}
		}()

		slow.expect(t, all...)
		require.Greater(t, time.Since(start), 4*time.Hour)
		slow.chunk = 0
		c.Close(4000, "")
		slow.expectClose(t, 4000)
		require.NoError(t, healthy.Close())
	}, hub.WithQueue(16, 17<<10), hub.WithWriteTimeout(timeout))
}

// A client on 100 KB/s with 1 MiB queued gets it all, in the time that it takes, and delays nobody.
func TestWireHundredKBPerSecond(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		slow, c := b.dial("", "")
		healthy, _ := b.dial("", "")
		slow.chunk, slow.every = 10_000, 100*time.Millisecond
		start := time.Now()
		all := distinct(16, 65_000)
		b.publish(all...)
		healthy.expect(t, all...)
		require.Zero(t, time.Since(start), "others don't wait")
		slow.expect(t, all...)
		require.InDelta(t, 10.4, time.Since(start).Seconds(), 1)
		c.Close(4000, "")
		slow.expectClose(t, 4000)
	})
}

// half publishes to a client that reads some bytes of the first message and no more, so that a write
// to it is under way. Another gets everything at once.
func half(t *testing.T, b *bubble, bytes int) (slow *wire, c *hub.Client, all []string) {
	slow, c = b.dial("", "")
	healthy, hc := b.dial("", "")
	start := time.Now()
	all = distinct(20, 16_000)
	b.publish(all...)
	healthy.expect(t, all...)
	require.Zero(t, time.Since(start), "others don't wait")
	slow.ahead = make([]byte, bytes)
	_, err := io.ReadFull(slow.Conn, slow.ahead)
	require.NoError(t, err)
	synctest.Wait()
	require.NoError(t, healthy.Close())
	<-hc.Done()
	return slow, c, all
}

// halves are places in a first frame: its header, and what is in it.
var halves = []int{0, 1, 4, 777}

// A client that stops reading in the middle of a frame has the write timeout to go on, counted from the
// last look at it: as much again where it has taken some since.
func TestWireStopsInAFrame(t *testing.T) {
	for _, n := range halves {
		t.Run(fmt.Sprintf("%d bytes, goes on", n), func(t *testing.T) {
			inBubble(t, smallSockets, func(t *testing.T, b *bubble) {
				slow, c, all := half(t, b, n)
				<-time.After(9 * time.Second)
				slow.expect(t, all...)
				c.Close(4000, "")
				slow.expectClose(t, 4000)
			})
		})
		t.Run(fmt.Sprintf("%d bytes, does not", n), func(t *testing.T) {
			inBubble(t, smallSockets, func(t *testing.T, b *bubble) {
				slow, c, all := half(t, b, n)
				start := time.Now()
				<-c.Done()
				require.InDelta(t, 15, time.Since(start).Seconds(), 6)
				require.True(t, lost(c), "%v", c.Err())
				slow.expectPart(t, all...)
			})
		})
	}
}

// A client that is gone while a write to it is under way: at once where a reset says so, after the write
// timeout where nothing does.
func TestWireDisappears(t *testing.T) {
	for _, n := range halves {
		t.Run(fmt.Sprintf("%d bytes, reset", n), func(t *testing.T) {
			inBubble(t, smallSockets, func(t *testing.T, b *bubble) {
				slow, c, _ := half(t, b, n)
				start := time.Now()
				slow.mem().Cut()
				<-c.Done()
				require.Zero(t, time.Since(start))
				require.True(t, lost(c), "%v", c.Err())
				require.Zero(t, b.hub.Stats().Clients)
			})
		})
		t.Run(fmt.Sprintf("%d bytes, silence", n), func(t *testing.T) {
			inBubble(t, smallSockets, func(t *testing.T, b *bubble) {
				slow, c, _ := half(t, b, n)
				start := time.Now()
				slow.mem().Stall(true)
				<-c.Done()
				require.InDelta(t, 15, time.Since(start).Seconds(), 6)
				require.True(t, lost(c), "%v", c.Err())
				require.Zero(t, b.hub.Stats().Clients)
			})
		})
	}
}

// A client that is closed while a frame is half written: either the rest comes, what was queued, and a
// close frame, or nothing more than a part.
func TestWireClosedInAFrame(t *testing.T) {
	for _, n := range halves {
		t.Run(fmt.Sprintf("%d bytes, reads on", n), func(t *testing.T) {
			inBubble(t, smallSockets, func(t *testing.T, b *bubble) {
				slow, c, all := half(t, b, n)
				c.Close(4000, "enough")
				b.publish("too late")
				<-time.After(5 * time.Second)
				slow.expect(t, all...)
				slow.expectClose(t, 4000)
			})
		})
		t.Run(fmt.Sprintf("%d bytes, reads no more", n), func(t *testing.T) {
			inBubble(t, smallSockets, func(t *testing.T, b *bubble) {
				slow, c, all := half(t, b, n)
				start := time.Now()
				c.Close(4000, "enough")
				<-c.Done()
				require.InDelta(t, 10, time.Since(start).Seconds(), 3)
				slow.expectPart(t, all...)
			})
		})
		t.Run(fmt.Sprintf("%d bytes, shutdown", n), func(t *testing.T) {
			inBubble(t, smallSockets, func(t *testing.T, b *bubble) {
				slow, c, all := half(t, b, n)
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				require.Error(t, b.hub.Shutdown(ctx))
				<-c.Done()
				slow.expectPart(t, all...)
			})
		})
		t.Run(fmt.Sprintf("%d bytes, slow policy", n), func(t *testing.T) {
			inBubble(t, smallSockets, func(t *testing.T, b *bubble) {
				slow, c, all := half(t, b, n)
				b.publish(distinct(100, 16_000)...) // past its bound
				synctest.Wait()
				got := 0
				for {
					m, err := slow.message()
					if err != nil {
						require.Equal(t, closed{hub.CodeSlow, "too slow"}, err)
						break
					}
					if got < len(all) {
						require.Equal(t, all[got], m)
					}
					got++
				}
				require.GreaterOrEqual(t, got, len(all))
				require.Less(t, got, len(all)+100)
				slow.expectEnd(t)
				<-c.Done()
			})
		})
	}
}

// A control frame goes before the data that waits, and never inside a frame. What is being written when
// it comes, 64 KiB and a frame at most, and what the socket holds, stand before it.
func TestWireControlFrames(t *testing.T) {
	const size, inSocket, inWrite = 16_000, 1000, 64<<10 + 16_000
	tests := map[string]func(b *bubble, w *wire) (want ws.OpCode, payload string){
		"pong": func(b *bubble, w *wire) (ws.OpCode, string) {
			for _, p := range []string{"one", "two", "three"} {
				require.NoError(b.t, w.send(ws.NewPingFrame([]byte(p))))
				synctest.Wait()
			}
			return ws.OpPong, "three" // the latest replaces one that waits
		},
		"ping": func(b *bubble, w *wire) (ws.OpCode, string) { return ws.OpPing, "" },
	}
	for name, cause := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, smallSockets, func(t *testing.T, b *bubble) {
				slow, c := b.dial("", "")
				all := distinct(64, size)
				b.publish(all...)
				slow.chunk, slow.every = 1000, 100*time.Millisecond
				slow.expect(t, all[0])
				want, payload := cause(b, slow)
				start, read := time.Now(), slow.read
				var times []int
				seen := map[string]bool{}
				for next := 1; next < len(all); {
					op, p, err := slow.frame()
					require.NoError(t, err)
					if op == ws.OpPing { // which it answers, as any client
						require.NoError(t, slow.send(ws.NewPongFrame(p)))
					}
					switch op {
					case ws.OpText:
						require.True(t, all[next] == string(p), "message %d", next)
						next++
					case want:
						if want == ws.OpPong {
							require.False(t, seen[string(p)], "%q twice", p)
							seen[string(p)] = true
						}
						if string(p) == payload {
							times = append(times, slow.read)
						}
					default:
						require.Equal(t, ws.OpPing, op)
					}
				}
				require.NotEmpty(t, times)
				if want == ws.OpPing { // at the hub's moment, 26 to 30 s after the last frame of the client
					rate := float64(slow.chunk) / slow.every.Seconds()
					read += int(rate * 30)
					require.Less(t, time.Since(start), 200*time.Second)
				}
				require.LessOrEqual(t, times[0], read+inSocket+inWrite+32, "of %d bytes", slow.read)
				require.Less(t, times[0], slow.read-20*size, "data waited behind it")
				slow.chunk = 0
				c.Close(4000, "")
				slow.expectClose(t, 4000)
			})
		})
	}
}

// Messages whose sizes are where the length of a frame's header changes, and at the limit, as they were
// sent; one byte more is refused, with no effect on others.
func TestWireSizes(t *testing.T) {
	const limit = 70_000
	sizes := []int{1, 124, 125, 126, 127, 65_534, 65_535, 65_536, 65_537, limit - 1, limit}
	options := []hub.HubOption{hub.WithMessageLimit(limit), hub.WithPublishRate(0, 0), hub.WithHistory(0, time.Hour)}
	inBubble(t, smallSockets, func(t *testing.T, b *bubble) {
		alice, _ := b.dial("name=alice", "")
		bob, _ := b.dial("name=bob", "")
		for _, n := range sizes {
			data := distinct(1, n)[0]
			for _, f := range []ws.Frame{ws.NewTextFrame([]byte(data)), ws.NewBinaryFrame([]byte(data))} {
				op := f.Header.OpCode
				sent := make(chan error, 1)
				go func() { sent <- alice.send(f) }()
				for _, w := range []*wire{alice, bob} {
					got, p, err := w.frame()
					require.NoError(t, err, n)
					require.Equal(t, op, got)
					require.True(t, data == string(p), "%d bytes, got %d", n, len(p))
				}
				require.NoError(t, <-sent)
			}
		}
	}, options...)

	inBubble(t, smallSockets, func(t *testing.T, b *bubble) {
		enter := func(name string) *wire {
			w, _ := b.dial("name="+name+"&history=0", "hub.v1.json")
			for {
				m, err := w.message()
				require.NoError(t, err)
				if strings.Contains(m, `"joined"`) && strings.Contains(m, name) {
					return w
				}
			}
		}
		alice, bob := enter("alice"), enter("bob")
		_, err := alice.message() // bob joined
		require.NoError(t, err)
		publish := func(data string) string { return fmt.Sprintf(`{"type":"publish","data":"%s"}`, data) }
		say := func(data string) string { // and returns the event, the same at both
			sent := make(chan error, 1)
			go func() { sent <- alice.send(ws.NewTextFrame([]byte(publish(data)))) }()
			m, err := bob.message()
			require.NoError(t, err)
			require.Contains(t, m, `"data":"`+data+`"`)
			alice.expect(t, m)
			require.NoError(t, <-sent)
			return m
		}
		for _, n := range sizes { // of the command
			if n > len(publish("")) {
				say(strings.Repeat("x", n-len(publish(""))))
			}
		}
		for range 2 { // the second event has a seq of two digits, as all that follow
			say("")
		}
		around := len(say("")) // the bubble's clock stands still, so all else is the same
		for _, n := range sizes {
			if data := n - around; data >= 0 && len(publish(""))+data <= limit {
				require.Len(t, say(strings.Repeat("x", data)), n, "of the event")
			}
		}
	}, options...)

	for _, door := range []string{"", "hub.v1.json"} {
		for name, frames := range map[string][]int{"one frame": {limit + 1}, "fragments": {limit / 2, limit / 2, 1}} {
			t.Run(strings.TrimPrefix(door+" "+name, " "), func(t *testing.T) {
				inBubble(t, smallSockets, func(t *testing.T, b *bubble) {
					bob, _ := b.dial("name=bob", "")
					big, c := b.dial("name=big", door)
					sent := make(chan struct{})
					go func() {
						defer close(sent)
						op := ws.OpText
						for i, n := range frames {
							f := ws.NewFrame(op, i == len(frames)-1, []byte(strings.Repeat(" ", n)))
							if big.send(f) != nil {
								return
							}
							op = ws.OpContinuation
						}
					}()
					for {
						_, err := big.message()
						if err != nil {
							require.Equal(t, closed{hub.CodeTooBig, "message too big"}, err)
							break
						}
					}
					big.expectEnd(t)
					require.NoError(t, big.Close())
					<-c.Done()
					<-sent
					b.publish("bob is still there")
					bob.expect(t, "bob is still there")
				}, options...)
			})
		}
	}
}

// The same over TCP, where the kernel cuts the writes: sizes, a client that goes with a reset while a
// write to it is under way, and one that is closed then and reads on.
func TestWireTCP(t *testing.T) {
	for where, mount := range map[string]mount{"TCP": mountServer, "TLS": mountTLS} {
		t.Run(where, func(t *testing.T) {
			const limit = 70_000
			joined := make(chan *hub.Client, 1)
			h := hub.New(hub.WithTextFormat(hub.RawText()), hub.WithMessageLimit(limit), hub.WithPublishRate(0, 0),
				hub.WithHistory(0, time.Hour), hub.WithOnJoin(func(c *hub.Client, _ *hub.Room) { joined <- c }))
			to := mount(t, h)
			dial := func(room int) (*wire, *hub.Client) {
				w, err := dialTCP(to, room)
				require.NoError(t, err)
				t.Cleanup(func() { _ = w.Close() })
				return w, <-joined
			}
			healthy, _ := dial(0)
			for _, n := range []int{1, 125, 126, 65_535, 65_536, limit} {
				m := distinct(1, n)[0]
				require.NoError(t, healthy.send(ws.NewTextFrame([]byte(m))))
				healthy.expect(t, m)
				require.NoError(t, healthy.send(ws.NewBinaryFrame([]byte(m))))
				healthy.expect(t, m)
			}

			room, err := h.Room("lobby")
			require.NoError(t, err)
			flood := func() (all []string) { // until a write is under way, with a full queue behind it
				for slow := h.Stats().Slow; h.Stats().Slow == slow; {
					m := fmt.Sprintf("%d %s", len(all), distinct(1, 16_000)[0])
					_, err := room.Publish(context.Background(), hub.Text(m))
					require.NoError(t, err)
					healthy.expect(t, m)
					all = append(all, m)
					require.Less(t, len(all), 2000)
				}
				return all
			}
			gone, c := dial(4096)
			_ = flood()
			start := time.Now()
			require.NoError(t, gone.pacer.Conn.(*net.TCPConn).SetLinger(0))
			require.NoError(t, gone.Close())
			<-c.Done()
			require.Less(t, time.Since(start), 8*time.Second, "the reset was noticed")

			late, c := dial(64 << 10)
			all := flood()
			got := 0
			for {
				m, err := late.message()
				if err != nil {
					require.Equal(t, closed{hub.CodeSlow, "too slow"}, err)
					break
				}
				require.Equal(t, all[got], m)
				got++
			}
			require.Less(t, got, len(all))
			require.Greater(t, got, 10)
			late.expectEnd(t)
			require.NoError(t, late.Close())
			<-c.Done()

			healthy.expectGoodbye(t, h)
		})
	}
}

// Whatever is above holds where no write is tried that never waits.
func TestWireWithoutFastPath(t *testing.T) {
	const off = "HUB_NO_FASTPATH=1"
	if os.Getenv("HUB_NO_FASTPATH") != "" {
		t.Skip("it is off already")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestWire(ControlFrames|Sizes|TCP)$") // the others have a path of their own for it
	cmd.Env = append(os.Environ(), off)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "with %s:\n%s", off, out)
}
