package wsconn

import (
	"bufio"
	"bytes"
	"compress/flate"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// inflate is RFC 7692, section 7.2.2, by the standard library.
func inflate(t testing.TB, payload []byte) []byte {
	t.Helper()
	r := flate.NewReader(io.MultiReader(bytes.NewReader(payload), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff")))
	p, err := io.ReadAll(r)
	require.NoError(t, err)
	return p
}

// deflateAll is what a client sends: the payload of a deflated message.
func deflateAll(t testing.TB, p string) string {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	require.NoError(t, err)
	_, err = io.WriteString(w, p)
	require.NoError(t, err)
	require.NoError(t, w.Flush())
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

func TestDeflate(t *testing.T) {
	words := strings.Fields("what a room says of the day: hello, and thanks for all the fish")
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 20, 125, 126, 127, 511, 512, 513, 5_000, 65_535, 65_536, 300_000} {
		var b strings.Builder
		for b.Len() < n {
			b.WriteString(words[rng.IntN(len(words))] + " ")
		}
		text := b.String()[:n]
		f := NewFrame(OpText, []byte(text))
		f.Stream, f.Prev, f.Seq, f.Key = t, 3, 4, "key"
		plain := string(f.Bytes)

		g := f.Deflate(512)
		require.True(t, plain == string(f.Bytes), "the frame itself is shared, and stays")
		if n < 512 {
			require.Same(t, f, g, "%d bytes are below the threshold", n)
			continue
		}
		require.Less(t, len(g.Bytes), len(f.Bytes), "%d bytes of text", n)
		require.Equal(t, []any{f.Stream, f.Prev, f.Seq, f.Key}, []any{g.Stream, g.Prev, g.Seq, g.Key})
		require.Equal(t, byte(finBit|rsv1Bit|1), g.Bytes[0])
		payload := g.Bytes[headerSize(g.Bytes):]
		require.Equal(t, AppendFrame(nil, OpText, payload)[1:], g.Bytes[1:], "the header's length is the payload's")
		require.True(t, text == string(inflate(t, payload)), "%d bytes", n)
	}

	noise := make([]byte, 1000)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	f := NewFrame(OpBinary, noise)
	require.Same(t, f, f.Deflate(1), "what does not become smaller stays as it is")
}

// The answer insists on no context takeover both ways, whatever else was offered, and an offer
// that we can't keep to gets none.
func TestDeflateNegotiation(t *testing.T) {
	const both = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
	for _, tt := range []struct{ offer, answer string }{
		{"", ""},
		{"permessage-deflate", both},
		{"permessage-deflate; client_max_window_bits", both},
		{"permessage-deflate; client_max_window_bits=10", both},
		{"permessage-deflate; server_no_context_takeover; client_no_context_takeover", both},
		{"permessage-deflate; server_max_window_bits=15", both},
		{"permessage-deflate; server_max_window_bits=10", ""},
		{"permessage-deflate; server_max_window_bits=10, permessage-deflate", both},
		{`permessage-deflate;server_max_window_bits="15"; client_max_window_bits=15`, both},
		{"permessage-deflate; client_max_window_bits=7", ""},
		{"permessage-deflate; client_max_window_bits=", ""},
		{"permessage-deflate; server_max_window_bits", ""},
		{"permessage-deflate; server_no_context_takeover=1", ""},
		{"permessage-deflate; what=ever", ""},
		{"permessage-bzip2", ""},
		{"x-webkit-deflate-frame", ""},
		{"permessage-bzip2, permessage-deflate; client_max_window_bits", both},
	} {
		for _, compress := range []bool{true, false} {
			server, client := tcpConns(t)
			w := &hijackable{ResponseRecorder: httptest.NewRecorder(), conn: server}
			r := handshake()
			if tt.offer != "" {
				r.Header.Set("Sec-WebSocket-Extensions", tt.offer)
			}
			c, err := Accept(w, r, &Options{Compress: compress})
			require.NoError(t, err)
			want := tt.answer
			if !compress {
				want = ""
			}
			require.Equal(t, want != "", c.Deflates(), tt.offer)
			resp, err := http.ReadResponse(bufio.NewReader(client), nil)
			require.NoError(t, err)
			require.Equal(t, want, resp.Header.Get("Sec-WebSocket-Extensions"), tt.offer)
			c.Abort()
			c.Finish()
			client.Close()
		}
	}
}

// deflating is a connection that agreed on permessage-deflate.
func deflating(t testing.TB, o *Options) (*Conn, *peer) {
	t.Helper()
	server, client := tcpConns(t)
	return deflatingOver(t, server, client, o)
}

func deflatingOver(t testing.TB, server, client net.Conn, o *Options) (*Conn, *peer) {
	t.Helper()
	w := &hijackable{ResponseRecorder: httptest.NewRecorder(), conn: server}
	r := handshake()
	r.Header.Set("Sec-WebSocket-Extensions", "permessage-deflate")
	o.Compress = true
	c, err := Accept(w, r, o)
	require.NoError(t, err)
	p := &peer{client, bufio.NewReader(client)}
	_, err = http.ReadResponse(p.r, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		p.Close()
		c.Abort()
		c.Finish()
	})
	return c, p
}

func TestReadDeflated(t *testing.T) {
	const limit = 100_000
	long := strings.Repeat("long and dull, ", limit)[:limit]
	message := func(s string) string { return string(maskedFrame(0xC1, deflateAll(t, s))) }
	fragments := func(s string) string {
		p := deflateAll(t, s)
		return string(maskedFrame(0x41, p[:10])) + string(maskedFrame(0x89, "a ping")) +
			string(maskedFrame(0x00, p[10:20])) + string(maskedFrame(0x80, p[20:]))
	}
	hello := frame{1, "hello"}
	protocol := closing(1002, "protocol error")
	tooBig := closing(1009, "message too big")
	for _, tt := range []struct {
		name, input string
		messages    []frame
		end         frame
	}{
		{"messages, deflated and not", message("hello") + string(maskedFrame(0x81, "hello")) + message("hello"), []frame{hello, hello, hello}, protocol},
		// A stream may end with its last block (RFC 7692, section 7.2.3.4).
		{"streams that end early", strings.Repeat(string(maskedFrame(0xC1, "\xf3\x48\xcd\xc9\xc9\x07\x00\x00")), 3), []frame{{1, "Hello"}, {1, "Hello"}, {1, "Hello"}}, protocol},
		{"an empty one", string(maskedFrame(0xC1, "\x00")), []frame{{1, ""}}, protocol},
		{"up to the limit", message(long), []frame{{1, long}}, protocol},
		{"in fragments, with a ping between", fragments(strings.Repeat("hello ", 100) + "\u00e9\u4e16"), []frame{{1, strings.Repeat("hello ", 100) + "\u00e9\u4e16"}}, protocol},
		{"one byte past the limit", message(long + "x"), nil, tooBig},
		{"a bomb", message(strings.Repeat("\x00", 50<<20)), nil, tooBig},
		{"text that is not UTF-8", message("a\xffb"), nil, closing(1007, "text is not UTF-8")},
		{"no deflate stream", string(maskedFrame(0xC1, "\xff\xff\xff\xff")), nil, protocol},
		{"a ping that says it is deflated", string(maskedFrame(0xC9, "hi")), nil, protocol},
		{"a later fragment that says it is", string(maskedFrame(0x41, deflateAll(t, "hello"))) + string(maskedFrame(0xC0, "hi")), nil, protocol},
		{"another reserved bit", string(maskedFrame(0xE1, deflateAll(t, "hello"))), nil, protocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p := deflating(t, &Options{ReadLimit: limit})
			r := startReader(t, c)
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				io.WriteString(p, tt.input+"\x81\x00") // what follows is not masked: the end
			}()
			all, err := p.rest()
			require.ErrorIs(t, err, io.EOF)
			require.NotEmpty(t, all)
			require.Equal(t, tt.end.String(), all[len(all)-1].String())
			p.Close()
			<-sent
			<-r.done
			require.Equal(t, len(tt.messages), len(r.messages))
			for i := range tt.messages {
				require.True(t, tt.messages[i] == r.messages[i], "message %d: %v", i, r.messages[i])
			}
		})
	}
}

// A deflated message that the network cut short is no message: what has come of it may inflate
// to something, but not to what was said.
func TestReadDeflatedCutShort(t *testing.T) {
	whole := maskedFrame(0xC1, deflateAll(t, strings.Repeat("transfer 1000 ", 40)+"to nobody"))
	for _, n := range []int{2, 6, 7, 20, len(whole) / 2, len(whole) - 1} {
		c, p := deflating(t, &Options{})
		r := startReader(t, c)
		_, err := p.Write(whole[:n])
		require.NoError(t, err)
		require.NoError(t, p.CloseWrite())
		<-r.done
		require.Empty(t, r.messages, "after %d of %d bytes", n, len(whole))
		ce, ok := r.err.(*CloseError)
		require.True(t, ok)
		require.Equal(t, 1006, ce.Code)
	}
}

// Deflated and plain frames may follow one another, on the fast path and on the queue.
func TestSendDeflated(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		c, p := deflating(t, &Options{})
		startReader(t, c)
		plain := NewFrame(OpText, []byte(strings.Repeat("hello ", 200)))
		deflated := plain.Deflate(1)
		require.NoError(t, c.Send(NewBatch(plain, deflated, plain), Disconnect))
		for i, head := range []byte{0x81, 0xC1, 0x81} {
			got, err := p.r.Peek(2)
			require.NoError(t, err)
			require.Equal(t, head, got[0], "frame %d", i)
			f := plain
			if head == 0xC1 {
				f = deflated
			}
			raw := make([]byte, len(f.Bytes))
			_, err = io.ReadFull(p.r, raw)
			require.NoError(t, err)
			require.Equal(t, f.Bytes, raw)
		}
	})
}

// One message at a time, so with the wake-up of a reader that waits.
func BenchmarkReadDeflated(b *testing.B) {
	text := strings.Repeat(`{"type":"publish","data":"hello"}`, 8)
	for name, pair := range map[string]func(testing.TB, *Options) (*Conn, *peer){"plain": tcpPair, "deflated": deflating} {
		b.Run(name, func(b *testing.B) {
			var readers Readers
			b.Cleanup(readers.Close)
			c, p := pair(b, &Options{Readers: &readers})
			m := maskedFrame(0x81, text)
			if name == "deflated" {
				m = maskedFrame(0xC1, deflateAll(b, text))
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Write(m); err != nil {
					b.Fatal(err)
				}
				if _, _, err := c.Read(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// chatText is words as they come, which deflate to about half.
func chatText(n int) []byte {
	words := strings.Fields("the quick brown fox jumps over a lazy dog while we all talk about what to have for lunch today and nobody knows it yet")
	rng := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, 0, n+16)
	for len(text) < n {
		text = append(append(text, words[rng.IntN(len(words))]...), ' ')
	}
	return text[:n]
}

func BenchmarkDeflate(b *testing.B) {
	for _, n := range []int{128, 512, 4096, 65536} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			f := NewFrame(OpText, chatText(n))
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				f.Deflate(1)
			}
		})
	}
}

// deflateFinal is deflateAll with a last block.
func deflateFinal(s string) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestSpeed)
	io.WriteString(w, s)
	w.Close()
	return b.String()
}

// A message may have several last blocks, each padded to a byte (RFC 7692, section 7.2.1). What
// follows one is payload still, never frames: half a message, or frames made of it, would be worse
// than none.
func TestReadFinalBlocks(t *testing.T) {
	next := string(maskedFrame(0x81, "next"))
	end := deflateFinal("Hello")
	frames := maskedFrame(0x81, "smuggled")
	for i := range frames { // as they are on the wire, at 4,096 bytes
		frames[i] ^= [4]byte{0x11, 0x22, 0x33, 0x44}[i%4]
	}
	protocol := 1002
	for _, tt := range []struct {
		name, input string
		want        []frame
		code        int
	}{
		{"two, whole", string(maskedFrame(0xC1, end+deflateFinal(", world")+"\x00")) + next, []frame{{1, "Hello, world"}, {1, "next"}}, 1006},
		{"two and no other", string(maskedFrame(0xC1, end+deflateFinal(", world"))) + next, []frame{{1, "Hello, world"}, {1, "next"}}, 1006},
		{"two, in fragments", string(maskedFrame(0x41, end+deflateFinal(", world"))) + string(maskedFrame(0x80, "\x00")) + next, []frame{{1, "Hello, world"}, {1, "next"}}, 1006},
		{"one, a fragment of its own", string(maskedFrame(0x41, end)) + string(maskedFrame(0x80, "\x00")) + next, []frame{{1, "Hello"}, {1, "next"}}, 1006},
		{"frames behind it", string(maskedFrame(0xC1, end+strings.Repeat("\x00", 4096-len(end))+string(frames))) + next, nil, protocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p := deflating(t, &Options{})
			r := startReader(t, c)
			go func() {
				io.WriteString(p, tt.input)
				p.CloseWrite()
			}()
			<-r.done
			require.Equal(t, tt.want, r.messages)
			require.Equal(t, tt.code, r.err.(*CloseError).Code)
		})
	}
}

// What can't be made smaller may be deflated all the same, and what takes more than the limit before
// it is inflated is refused: several times the limit need not be read.
func TestReadDeflatedThatIsLarger(t *testing.T) {
	random := make([]byte, 50_000)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	c, p := deflating(t, &Options{ReadLimit: int64(len(random))})
	r := startReader(t, c)
	go func() {
		p.Write(maskedFrame(0xC2, deflateAll(t, string(random))))
		p.Write(maskedFrame(0xC1, strings.Repeat("\x00\x00\x00\xff\xff", 20_000)+deflateAll(t, "small")))
	}()
	<-r.done
	require.Equal(t, []frame{{2, string(random)}}, r.messages)
	require.Equal(t, 1009, r.err.(*CloseError).Code)
}

func BenchmarkInflate(b *testing.B) {
	for _, n := range []int{128, 512, 4096, 65536} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			payload := []byte(deflateAll(b, string(chatText(n))))
			c := &Conn{readLimit: 1 << 20}
			b.ReportAllocs()
			b.SetBytes(int64(n))
			for b.Loop() {
				if _, err := c.inflate(payload); err != nil {
					b.Fatal(err)
				}
				c.freeMessage()
			}
		})
	}
}
