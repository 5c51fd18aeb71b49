package wsconn

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chathub-go/hub/internal/memnet"
	"github.com/stretchr/testify/require"
)

// What a connection gets at rest, in whatever pieces it comes: pings are answered, and what is
// not right is refused, as by a reader.
func TestInputAtRest(t *testing.T) {
	ping := func(s string) string { return string(maskedFrame(0x89, s)) }
	pong := func(s string) string { return string(maskedFrame(0x8A, s)) }
	text := func(s string) string { return string(maskedFrame(0x81, s)) }
	bye := string(maskedFrame(0x88, "\x03\xe8"))
	protocol := closing(1002, "protocol error")
	long := strings.Repeat("p", 125)
	for _, tt := range []struct {
		name, input string
		messages    []string
		pongs       []string // the last is sure to come, and those that do are in order
		end         frame
	}{
		{"an empty message", text("") + bye, []string{""}, nil, closing(1000, "")},
		{"messages of every length of a header", text(strings.Repeat("a", 125)) + text(strings.Repeat("b", 126)) + text(strings.Repeat("c", 3000)) + text("d") + bye,
			[]string{strings.Repeat("a", 125), strings.Repeat("b", 126), strings.Repeat("c", 3000), "d"}, nil, closing(1000, "")},
		{"a message that is not masked", text("one") + "\x81\x03two", []string{"one"}, nil, protocol},
		{"a message that is not UTF-8", text("a\xffb"), nil, nil, closing(1007, "text is not UTF-8")},
		{"a reserved bit", text("one") + string(maskedFrame(0xC1, "two")), []string{"one"}, nil, protocol},
		{"a message that is too big", text("one") + text(strings.Repeat("x", 3001)), []string{"one"}, nil, closing(1009, "message too big")},
		{"nothing", bye, nil, nil, closing(1000, "")},
		{"a ping", ping("a") + bye, nil, []string{"a"}, closing(1000, "")},
		{"an empty ping", ping("") + bye, nil, []string{""}, closing(1000, "")},
		{"the longest ping", ping(long) + bye, nil, []string{long}, closing(1000, "")},
		{"pongs nobody asked for", pong("") + pong("x") + pong(long) + bye, nil, nil, closing(1000, "")},
		{"pings and messages", ping("a") + text("one") + pong("x") + ping("b") + text("two") + ping("c") + bye, []string{"one", "two"}, []string{"a", "b", "c"}, closing(1000, "")},
		{"a ping inside a message", string(maskedFrame(0x01, "on")) + ping("a") + string(maskedFrame(0x80, "e")) + bye, []string{"one"}, []string{"a"}, closing(1000, "")},
		{"a ping that is not masked", "\x89\x01a" + text("one"), nil, nil, protocol},
		{"a ping in fragments", string(maskedFrame(0x09, "a")) + bye, nil, nil, protocol},
		{"a ping with a reserved bit", string(maskedFrame(0xC9, "a")) + bye, nil, nil, protocol},
		{"a ping that is too long", ping(long+"p") + bye, nil, nil, protocol},
	} {
		for _, step := range []int{1, 2, 7, 1 << 20} {
			t.Run(fmt.Sprintf("%s, %d at a time", tt.name, step), func(t *testing.T) {
				onBothPaths(t, func(t *testing.T) {
					var readers Readers
					defer readers.Close()
					c, p := tcpPair(t, &Options{Readers: &readers, ReadLimit: 3000})
					r := startReader(t, c)
					go func() {
						for s := tt.input; s != ""; {
							n := min(step, len(s))
							io.WriteString(p, s[:n])
							s = s[n:]
							runtime.Gosched()
						}
					}()
					all, err := p.rest()
					require.Equal(t, io.EOF, err)
					require.NotEmpty(t, all)
					last := len(all) - 1
					require.Equal(t, tt.end.String(), all[last].String())
					var pongs []string
					for _, f := range all[:last] {
						require.EqualValues(t, 10, f.op)
						pongs = append(pongs, f.payload)
					}
					require.True(t, isSubsequence(pongs, tt.pongs), "pongs %q", pongs)
					if len(tt.pongs) > 0 {
						require.NotEmpty(t, pongs)
						require.Equal(t, tt.pongs[len(tt.pongs)-1], pongs[len(pongs)-1])
					}
					p.Close()
					<-r.done
					var got []string
					for _, m := range r.messages {
						got = append(got, m.payload)
					}
					require.Equal(t, tt.messages, got)
				})
			})
		}
	}
}

func isSubsequence(some, all []string) bool {
	for _, s := range all {
		if len(some) > 0 && some[0] == s {
			some = some[1:]
		}
	}
	return len(some) == 0
}

// Connections that share readers never see each other's bytes, whatever they break off.
func TestReadersAreShared(t *testing.T) {
	var readers Readers
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for i := range 40 {
		o := &Options{Readers: &readers, Compress: i%4 == 0, ReadLimit: 20_000}
		pair := tcpPair
		if o.Compress {
			pair = deflating
		}
		c, p := pair(t, o)
		r := startReader(t, c)
		rng := rand.New(rand.NewPCG(uint64(i), 1))
		var want []string
		var input strings.Builder
		for n := range 60 {
			s := strings.Repeat(fmt.Sprintf("%d says %d. ", i, n), rng.IntN(40))
			want = append(want, s)
			head, payload := byte(0x81), s
			if o.Compress && n%2 == 0 {
				head, payload = 0xC1, deflateAll(t, s)
			}
			if k := len(payload) / 2; n%3 == 0 {
				input.Write(maskedFrame(head&^0x80, payload[:k]))
				input.Write(maskedFrame(0x89, "ping"))
				input.Write(maskedFrame(0x80, payload[k:]))
			} else {
				input.Write(maskedFrame(head, payload))
			}
		}
		end := []string{
			string(maskedFrame(0x88, "\x03\xe8")),
			string(maskedFrame(0x81, "cut off in the middle"))[:12],
			"\x81\x03not masked",
			string(maskedFrame(0x82, strings.Repeat("big", 10_000))),
		}[i/4%4]
		input.WriteString(end)
		wg.Go(func() { io.Copy(io.Discard, p.r) })
		wg.Go(func() {
			for s := input.String(); s != ""; {
				n := min(1+rng.IntN(700), len(s))
				io.WriteString(p, s[:n])
				s = s[n:]
				runtime.Gosched()
			}
			p.CloseWrite()
			<-r.done
			p.Close()
			if len(r.messages) != len(want) {
				t.Errorf("connection %d got %d messages, want %d: %v", i, len(r.messages), len(want), r.err)
				return
			}
			for k := range want {
				if r.messages[k].payload != want[k] {
					t.Errorf("connection %d, message %d: %.100q, want %.100q", i, k, r.messages[k].payload, want[k])
				}
			}
		})
	}
	wg.Wait()
	readers.mu.Lock()
	require.LessOrEqual(t, len(readers.free), maxReaders)
	readers.mu.Unlock()
	readers.Close()
	for runtime.NumGoroutine() > before { // who fails here hangs until the test's deadline
		runtime.Gosched()
	}
}

// A connection that has read and waits holds no reader, and what holds one is given back.
func TestRestHoldsNoReader(t *testing.T) {
	var readers Readers
	defer readers.Close()
	c, p := tcpPair(t, &Options{Readers: &readers})
	fragmented := append(maskedFrame(0x01, "hel"), maskedFrame(0x80, "lo")...)
	for i := range 3 {
		p.Write(fragmented)
		_, m, err := c.Read(t.Context())
		require.NoError(t, err)
		require.Equal(t, "hello", string(m))
		require.Nil(t, c.reader, "after message %d", i)
		require.Len(t, readers.free, 1)
	}
	p.Write(append(fragmented, maskedFrame(0x81, "two")...))
	_, _, err := c.Read(t.Context())
	require.NoError(t, err)
	require.Nil(t, c.reader, "what it had of the second message is taken back")
	_, m, err := c.Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, "two", string(m))
	require.Nil(t, c.reader)
	p.send(t, 1, "whole")
	_, m, err = c.Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, "whole", string(m))
	require.Len(t, readers.free, 1, "it was not needed")
	c.Abort()
	c.Finish()
}

// A client that sends a ping or a pong slowly is alive, and holds no reader meanwhile.
func TestSlowControlFrameAtRest(t *testing.T) {
	for _, head := range []byte{0x89, 0x8A} {
		synctest.Test(t, func(t *testing.T) {
			var readers Readers
			a, b := memnet.Pipe()
			c, p := accept(t, a, b, &Options{Readers: &readers})
			r := startReader(t, c)
			control := maskedFrame(head, "of a slow client")
			for i := range control {
				_, err := p.Write(control[i : i+1])
				require.NoError(t, err)
				<-time.After(time.Second)
				synctest.Wait()
				require.Nil(t, c.reader, "after %d bytes", i+1) // the reading goroutine waits
			}
			if head == 0x89 {
				p.expect(t, frame{10, "of a slow client"})
			}
			p.Write(maskedFrame(0x81, "hello"))
			p.CloseWrite()
			<-r.done
			require.Equal(t, []frame{{1, "hello"}}, r.messages)
			readers.Close()
		})
	}
}
