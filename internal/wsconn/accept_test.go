package wsconn

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chathub-go/hub/internal/memnet"
	"github.com/stretchr/testify/require"
)

func TestCheck(t *testing.T) {
	o := &Options{Subprotocols: []string{"hub.v1.json", "other"}, Origins: []string{"*.example.org", "Localhost:*", "[bad"}}
	set := func(key string, values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(key)] = values }
	}
	for _, tt := range []struct {
		name   string
		change func(r *http.Request)
		status int // 200: go on
		says   string
	}{
		{"a handshake", func(r *http.Request) {}, 200, ""},
		{"a plain GET", func(r *http.Request) { r.Header = http.Header{} }, 426, "wscat -c 'ws://chat.example/room'"},
		{"a HEAD", func(r *http.Request) { r.Method = "HEAD"; r.Header = http.Header{} }, 426, "ws://"},
		{"a POST", func(r *http.Request) { r.Method = "POST" }, 405, "GET"},
		{"a CONNECT over HTTP/2", func(r *http.Request) { r.Method = "CONNECT"; r.ProtoMajor = 2; r.ProtoMinor = 0 }, 501, "HTTP/1.1"},
		{"a GET over HTTP/2", func(r *http.Request) { r.ProtoMajor = 2; r.ProtoMinor = 0 }, 426, "HTTP/1.1"},
		{"HTTP/1.0", func(r *http.Request) { r.ProtoMinor = 0 }, 426, "HTTP/1.1"},
		{"another upgrade", set("Upgrade", "h2c"), 426, "WebSocket"},
		{"no upgrade in Connection", set("Connection", "keep-alive"), 426, "WebSocket"},
		{"tokens in any case, in several fields", func(r *http.Request) {
			set("Connection", "keep-alive", "x, UPGRADE")(r)
			set("Upgrade", "WebSocket")(r)
		}, 200, ""},
		{"a body", func(r *http.Request) { r.ContentLength = 5 }, 400, "body"},
		{"a chunked body", func(r *http.Request) { r.ContentLength = -1 }, 400, "body"},
		{"no version", set("Sec-WebSocket-Version"), 400, "Version"},
		{"an old version", set("Sec-WebSocket-Version", "8"), 400, "Version"},
		{"two versions", set("Sec-WebSocket-Version", "13", "8"), 400, "Version"},
		{"no key", set("Sec-WebSocket-Key"), 400, "Key"},
		{"an empty key", set("Sec-WebSocket-Key", ""), 400, "Key"},
		{"two keys", set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="), 400, "Key"},
		{"a key that is no base64", set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ="), 400, "Key"},
		{"a short key", set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j"), 400, "Key"},
		{"the same origin", set("Origin", "https://CHAT.example"), 200, ""},
		{"a foreign origin", set("Origin", "https://evil.example"), 403, "origin"},
		{"a foreign port", set("Origin", "https://chat.example:8443"), 403, "origin"},
		{"a null origin", set("Origin", "null"), 403, "origin"},
		{"an empty origin", set("Origin", ""), 403, "origin"},
		{"two origins", set("Origin", "https://chat.example", "https://chat.example"), 403, "origin"},
		{"an origin that is no URL", set("Origin", "http://%zz"), 403, "origin"},
		{"an origin of a pattern", set("Origin", "https://a.EXAMPLE.org"), 200, ""},
		{"an origin of a pattern with a port", set("Origin", "http://localhost:3000"), 200, ""},
		{"an origin that only looks like a pattern's", set("Origin", "https://a.example.org.evil"), 403, "origin"},
		{"a known subprotocol", set("Sec-WebSocket-Protocol", "unknown, hub.v1.json"), 200, ""},
		{"a known subprotocol in another case", set("Sec-WebSocket-Protocol", "Hub.V1.JSON"), 200, ""},
		{"unknown subprotocols", set("Sec-WebSocket-Protocol", "a, b", "c"), 400, "hub.v1.json, other"},
		{"an empty subprotocol", set("Sec-WebSocket-Protocol", ""), 400, "Protocol"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := handshake()
			tt.change(r)
			w := httptest.NewRecorder()
			ok := Check(w, r, o)
			require.Equal(t, tt.status == 200, ok)
			require.Equal(t, tt.status, w.Code)
			require.Contains(t, w.Body.String(), tt.says)
			switch {
			case tt.status == 426 && r.ProtoMajor == 1:
				require.Equal(t, "websocket", w.Header().Get("Upgrade"))
				require.Equal(t, "Upgrade", w.Header().Get("Connection"))
			case tt.status == 405:
				require.Equal(t, "GET", w.Header().Get("Allow"))
			case strings.Contains(tt.name, "version"):
				require.Equal(t, "13", w.Header().Get("Sec-WebSocket-Version"))
			}
			if !ok { // Accept checks too
				w = httptest.NewRecorder()
				_, err := Accept(w, r, o)
				require.Error(t, err)
				require.Equal(t, tt.status, w.Code)
			}
		})
	}
	r := handshake()
	r.Header.Set("Origin", "null")
	require.True(t, Check(httptest.NewRecorder(), r, &Options{Origins: []string{"*"}}))
	r.Header.Set("Sec-WebSocket-Protocol", "x")
	w := httptest.NewRecorder()
	require.False(t, Check(w, r, &Options{Origins: []string{"*"}}))
	require.Contains(t, w.Body.String(), "no Sec-WebSocket-Protocol is known here")
}

// acceptOver runs Accept and returns the head of the answer that came over the connection.
func acceptOver(t *testing.T, wrap func(http.ResponseWriter) http.ResponseWriter, r *http.Request, o *Options, early string) (*Conn, *http.Response) {
	t.Helper()
	a, b := memnet.Pipe()
	w := wrap(&hijackable{ResponseRecorder: httptest.NewRecorder(), conn: a, early: early})
	c, err := Accept(w, r, o)
	require.NoError(t, err)
	t.Cleanup(func() { b.Close(); c.Abort(); c.Finish() })
	resp, err := http.ReadResponse(bufio.NewReader(b), nil)
	require.NoError(t, err)
	return c, resp
}

func same(w http.ResponseWriter) http.ResponseWriter { return w }

func TestAnswer(t *testing.T) {
	r := handshake()
	r.Header.Set("Sec-WebSocket-Protocol", "HUB.v1.json")
	wrap := func(w http.ResponseWriter) http.ResponseWriter {
		w.Header().Set("Set-Cookie", "session=1")
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Sec-WebSocket-Protocol", "nonsense")
		return w
	}
	own := http.Header{"x-own": {"a\r\nb", "c"}}
	c, resp := acceptOver(t, wrap, r, &Options{Subprotocols: []string{"hub.v1.json"}, Header: own}, "")
	require.Equal(t, 101, resp.StatusCode)
	require.Equal(t, http.Header{
		"Upgrade":                {"websocket"},
		"Connection":             {"Upgrade"},
		"Sec-Websocket-Accept":   {"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}, // RFC 6455, section 1.3
		"Sec-Websocket-Protocol": {"HUB.v1.json"},                  // the client's spelling
		"Set-Cookie":             {"session=1"},
		"X-Own":                  {"a  b", "c"},
	}, resp.Header)
	require.Equal(t, "hub.v1.json", c.Subprotocol()) // ours
	require.Equal(t, http.Header{"x-own": {"a\r\nb", "c"}}, own)
}

// The first frames may come in one segment with the request.
func TestFramesThatCameWithTheRequest(t *testing.T) {
	early := string(maskedFrame(0x81, "one")) + string(maskedFrame(0x81, strings.Repeat("x", 2000))) + string(maskedFrame(0x81, "three"))[:7]
	a, b := memnet.Pipe()
	w := &hijackable{ResponseRecorder: httptest.NewRecorder(), conn: a, early: early}
	c, err := Accept(w, handshake(), &Options{})
	require.NoError(t, err)
	r := startReader(t, c)
	b.Write(maskedFrame(0x81, "three")[7:])
	b.Write(maskedFrame(0x88, ""))
	b.CloseWrite()
	require.Equal(t, 1005, r.closed(t).Code)
	require.Equal(t, []frame{text("one"), text(strings.Repeat("x", 2000)), text("three")}, r.messages)
	b.Close()
}

// A layer is a middleware's ResponseWriter: it has Unwrap and nothing else.
type layer struct{ w http.ResponseWriter }

func (l layer) Header() http.Header         { return l.w.Header() }
func (l layer) Write(p []byte) (int, error) { return l.w.Write(p) }
func (l layer) WriteHeader(status int)      { l.w.WriteHeader(status) }
func (l layer) Unwrap() http.ResponseWriter { return l.w }

// A ginLayer asserts what it wraps to be a Hijacker, as gin's writer does.
type ginLayer struct{ layer }

func (l ginLayer) Hijack() (net.Conn, *bufio.ReadWriter, error) { return l.w.(http.Hijacker).Hijack() }
func (l ginLayer) WriteHeaderNow()                              { panic("gin must not write the header") }

// A blind layer hides what it wraps.
type blind struct{ http.ResponseWriter }

// A failing one can't hijack.
type failing struct{ http.ResponseWriter }

func (failing) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.New("out of luck")
}

func TestLayersOfMiddleware(t *testing.T) {
	for name, wrap := range map[string]func(http.ResponseWriter) http.ResponseWriter{
		"none":               same,
		"three":              func(w http.ResponseWriter) http.ResponseWriter { return layer{layer{layer{w}}} },
		"gin outside":        func(w http.ResponseWriter) http.ResponseWriter { return ginLayer{layer{w}} },
		"gin over a wrapper": func(w http.ResponseWriter) http.ResponseWriter { return layer{ginLayer{layer{layer{w}}}} },
	} {
		t.Run(name, func(t *testing.T) {
			_, resp := acceptOver(t, wrap, handshake(), &Options{}, "")
			require.Equal(t, 101, resp.StatusCode)
		})
	}
	for name, tt := range map[string]struct {
		wrap   func(http.ResponseWriter) http.ResponseWriter
		status int
	}{
		"no hijack":       {func(w http.ResponseWriter) http.ResponseWriter { return blind{w} }, 501},
		"none below":      {func(w http.ResponseWriter) http.ResponseWriter { return layer{layer{blind{w}}} }, 501},
		"gin, none below": {func(w http.ResponseWriter) http.ResponseWriter { return ginLayer{layer{blind{w}}} }, 501},
		"hijack fails":    {func(w http.ResponseWriter) http.ResponseWriter { return failing{w} }, 500},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			_, err := Accept(tt.wrap(w), handshake(), &Options{})
			require.Error(t, err)
			require.Equal(t, tt.status, w.Code)
			require.NotEmpty(t, w.Body.String())
			require.Empty(t, w.Header().Get("Upgrade"))
		})
	}
}

// A peer that is gone before the answer is an error, and nothing is left.
func TestAnswerFails(t *testing.T) {
	a, b := memnet.Pipe()
	b.Close()
	w := &hijackable{ResponseRecorder: httptest.NewRecorder(), conn: a}
	_, err := Accept(w, handshake(), &Options{})
	require.ErrorContains(t, err, "broken pipe")
	_, err = a.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	require.NotErrorIs(t, err, io.EOF)
}
