package compat

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/gobwas/ws"
	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
)

// words is compressible text of n bytes, another for each seed.
func words(seed uint64, n int) string {
	rng := rand.New(rand.NewPCG(seed, 0))
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "%s %d ", strings.Fields("hello there how are you 世界 é fine thanks")[rng.IntN(9)], rng.IntN(100))
	}
	return strings.ToValidUTF8(b.String()[:n], "?")
}

// deflateSizes are around the threshold, the frame header's sizes, and what a deflater takes at a time.
var deflateSizes = []int{1, 99, 100, 125, 126, 1000, 4096, 65_535, 65_536, 100_000}

const deflateFrom = 100

// What the hub deflates is read by others as it was said, and what they deflate by the hub.
func TestDeflatedForOthers(t *testing.T) {
	for name, dial := range dialers {
		if name == "gobwas" {
			continue // its extension is another package, for frames
		}
		for doorName, d := range doors {
			t.Run(name+"/"+doorName, func(t *testing.T) {
				if name == "node ws" {
					needs(t, "node", "-e", `require("ws")`)
				}
				h, _ := newHub(hub.WithCompression(deflateFrom), hub.WithPublishRate(0, 0))
				to := mountServer(t, h)
				to.deflate = true
				alice := dial(t, to, "?name=alice", d.subprotocol)
				defer alice.Drop()
				d.expect(t, alice, d.joined("alice"))
				bob := dial(t, to, "?name=bob", d.subprotocol)
				defer bob.Drop()
				d.expect(t, alice, d.joined("bob"))
				d.expect(t, bob, d.joined("bob"))
				for i, n := range deflateSizes {
					text := words(uint64(i), n)
					require.NoError(t, alice.Send(d.publish(fmt.Sprint(i), text)))
					for _, p := range []peer{alice, bob} {
						d.expect(t, p, d.message("alice", text))
					}
				}
				// Plain text has few bytes around it, JSON a hundred and more.
				require.GreaterOrEqual(t, h.Stats().Deflated, uint64(len(deflateSizes)-2), "%s does not negotiate permessage-deflate", name)

				late := dial(t, to, fmt.Sprintf("?name=late&history=%d", len(deflateSizes)), d.subprotocol)
				defer late.Drop()
				for i, n := range deflateSizes {
					d.expect(t, late, d.message("alice", words(uint64(i), n)))
				}
				require.NoError(t, h.Shutdown(t.Context()))
			})
		}
	}
}

// The frames say that they are deflated, from the threshold on, and only to who asked for it.
func TestDeflatedOnTheWire(t *testing.T) {
	h, saw := newHub(hub.WithCompression(deflateFrom), hub.WithTextFormat(hub.RawText()))
	to := mountServer(t, h)
	u, err := url.Parse(to.url)
	require.NoError(t, err)
	r, err := h.Room("lobby")
	require.NoError(t, err)

	connect := func(extensions, agreed string) *bufio.Reader {
		conn, err := net.Dial("tcp", u.Host)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n",
			u.RequestURI(), u.Host, extensions)
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
		require.Equal(t, agreed, resp.Header.Get("Sec-WebSocket-Extensions"))
		return in
	}
	const both = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
	deflating := connect("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n", both)
	plain := connect("", "")
	<-saw.joined
	<-saw.joined
	for i, n := range deflateSizes {
		_, err := r.Publish(t.Context(), hub.Text(words(uint64(i), n)))
		require.NoError(t, err)
		for in, deflates := range map[*bufio.Reader]bool{deflating: n >= deflateFrom, plain: false} {
			head, err := ws.ReadHeader(in)
			require.NoError(t, err)
			require.Equal(t, deflates, head.Rsv1(), "%d bytes", n)
			require.False(t, head.Rsv2() || head.Rsv3() || head.Masked || !head.Fin)
			if deflates {
				require.Less(t, head.Length, int64(n))
			} else {
				require.Equal(t, int64(n), head.Length)
			}
			_, err = in.Discard(int(head.Length))
			require.NoError(t, err)
		}
	}
	require.NoError(t, h.Shutdown(t.Context()))
}

// Chromium offers permessage-deflate, and both sides of it are read right.
func TestDeflatedForABrowser(t *testing.T) {
	h, _ := newHub(hub.WithCompression(deflateFrom), hub.WithPublishRate(0, 0), hub.WithTextFormat(hub.RawText()))
	to := mountServer(t, h)
	browser := startBrowser(t)
	// A page of the same host, be it a 404: Chromium lets no other one connect to a local address.
	run(t, browser, chromedp.Navigate(strings.Replace(strings.TrimSuffix(to.url, "lobby"), "ws", "http", 1)))
	run(t, browser, chromedp.Evaluate[bool](fmt.Sprintf(`
		window.got = [];
		window.ws = new WebSocket(%q);
		const tell = (what) => { got.push(what); document.body.dataset.got = got.length };
		ws.onopen = () => tell("open");
		ws.onmessage = (e) => tell(e.data);
		ws.onclose = (e) => tell("closed " + e.code);
		true`, to.url)))
	until(t, browser, `window.got.length === 1`)
	require.Equal(t, "open", run(t, browser, chromedp.Evaluate[string](`got[0]`)))
	require.Equal(t, "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
		run(t, browser, chromedp.Evaluate[string](`ws.extensions`)))
	for i, n := range deflateSizes {
		text := words(uint64(i), n)
		run(t, browser, chromedp.Evaluate[bool](fmt.Sprintf(`ws.send(%q); true`, text)))
		until(t, browser, `window.got.length > %d`, i+1)
		require.True(t, text == run(t, browser, chromedp.Evaluate[string](fmt.Sprintf(`got[%d]`, i+1))), "%d bytes came back otherwise", n)
	}
	require.EqualValues(t, len(deflateSizes)-2, h.Stats().Deflated)
	require.NoError(t, h.Shutdown(t.Context()))
}
