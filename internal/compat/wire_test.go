package compat

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/internal/memnet"
)

// The tests of faults look at what is on the wire with gobwas's parser of frame headers, and hold it to
// more than a client would.

// A violation is something that the hub must not send.
type violation string

func (v violation) Error() string { return "on the wire: " + string(v) }

// A wire is a client's end of a connection after the handshake: it does nothing by itself.
type wire struct {
	net.Conn
	*pacer
	ended bool   // a close frame has come
	read  int    // bytes of frames
	ahead []byte // taken from the connection before
}

// A pacer is the transport below, memory or TCP, read as slowly as a test wants.
type pacer struct {
	net.Conn
	chunk int // bytes of one read; 0: no pace
	every time.Duration
}

func (p *pacer) Read(b []byte) (int, error) {
	if p.chunk == 0 {
		return p.Conn.Read(b)
	}
	n, err := p.Conn.Read(b[:min(len(b), p.chunk)])
	<-time.After(p.every * time.Duration(n) / time.Duration(p.chunk))
	return n, err
}

func (w *wire) Read(b []byte) (int, error) {
	if len(w.ahead) > 0 {
		n := copy(b, w.ahead)
		w.ahead = w.ahead[n:]
		w.read += n
		return n, nil
	}
	n, err := w.Conn.Read(b)
	w.read += n
	return n, err
}

func (w *wire) mem() *memnet.Conn { return w.pacer.Conn.(*memnet.Conn) }

// frame reads the next frame. io.EOF is an end between two frames, and nothing but that.
func (w *wire) frame() (ws.OpCode, []byte, error) {
	start := w.read
	h, err := ws.ReadHeader(w)
	switch {
	case err != nil && w.read == start:
		return 0, nil, err
	case w.ended:
		return 0, nil, violation("something follows the close frame")
	case err != nil:
		return 0, nil, unexpected(err)
	case w.read-start != ws.HeaderSize(h):
		return 0, nil, violation(fmt.Sprintf("header of %d bytes for a length of %d", w.read-start, h.Length))
	case h.Rsv != 0 || h.Masked || !h.Fin:
		return 0, nil, violation(fmt.Sprintf("header %+v", h))
	case h.OpCode.IsControl() && h.Length > ws.MaxControlFramePayloadSize:
		return 0, nil, violation("control frame too long")
	}
	switch h.OpCode {
	case ws.OpText, ws.OpBinary, ws.OpPing, ws.OpPong:
	case ws.OpClose:
		w.ended = true
	default:
		return 0, nil, violation(fmt.Sprintf("opcode %#x", h.OpCode))
	}
	p := make([]byte, h.Length)
	if _, err := io.ReadFull(w, p); err != nil {
		return 0, nil, unexpected(err)
	}
	if h.OpCode == ws.OpText && !utf8.Valid(p) {
		return 0, nil, violation("text that is not UTF-8")
	}
	if h.OpCode == ws.OpClose && h.Length > 0 {
		if err := ws.CheckCloseFrameData(ws.ParseCloseFrameData(p)); err != nil && !registered(p) {
			return 0, nil, violation(err.Error())
		}
	}
	return h.OpCode, p, nil
}

// registered tells of the codes 1012 and 1013, which the parser does not know.
func registered(p []byte) bool {
	code, reason := ws.ParseCloseFrameData(p)
	return (code == 1012 || code == 1013) && utf8.ValidString(reason)
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// message returns the next message and answers pings, as any client does. A close frame is a closed.
func (w *wire) message() (string, error) {
	for {
		op, p, err := w.frame()
		switch {
		case err != nil:
			return "", err
		case op == ws.OpText || op == ws.OpBinary:
			return string(p), nil
		case op == ws.OpClose:
			code, reason := ws.ParseCloseFrameData(p)
			return "", closed{int(code), reason}
		case op == ws.OpPing:
			if err := w.send(ws.NewPongFrame(p)); err != nil {
				return "", err
			}
		}
	}
}

// expect wants messages, byte for byte.
func (w *wire) expect(t *testing.T, want ...string) {
	t.Helper()
	for i, m := range want {
		got, err := w.message()
		require.NoError(t, err, "message %d of %d", i, len(want))
		require.True(t, got == m, "message %d: %d bytes %.40q, want %d bytes %.40q", i, len(got), got, len(m), m)
	}
}

// expectClose wants a close frame next, and nothing after it.
func (w *wire) expectClose(t *testing.T, code int) {
	t.Helper()
	_, err := w.message()
	var c closed
	require.ErrorAs(t, err, &c)
	require.Equal(t, code, c.Code, c.Reason)
	w.expectEnd(t)
}

func (w *wire) expectEnd(t *testing.T) {
	t.Helper()
	_, _, err := w.frame()
	require.Equal(t, io.EOF, err)
}

// expectPart wants part of the frames of some messages and then the end of the connection, of
// whatever kind; what is not the beginning of the next message is not allowed.
func (w *wire) expectPart(t *testing.T, want ...string) {
	t.Helper()
	var all, got bytes.Buffer
	for _, m := range want {
		require.NoError(t, ws.WriteFrame(&all, ws.NewTextFrame([]byte(m))))
	}
	_, err := io.Copy(&got, w)
	t.Logf("%d bytes of %d, then %v", got.Len(), all.Len(), err)
	require.True(t, bytes.HasPrefix(all.Bytes(), got.Bytes()), "%d bytes that are not the messages'", got.Len())
	require.Less(t, got.Len(), all.Len())
}

func (w *wire) send(f ws.Frame) error {
	return ws.WriteFrame(w.Conn, ws.MaskFrameInPlace(f))
}

func (w *wire) Close() error { return w.pacer.Conn.Close() }

// shake does the handshake and reads no byte beyond it.
func shake(conn net.Conn, path, subprotocol string) error {
	req := "GET " + path + " HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	if subprotocol != "" {
		req += "Sec-WebSocket-Protocol: " + subprotocol + "\r\n"
	}
	if _, err := io.WriteString(conn, req+"\r\n"); err != nil {
		return err
	}
	var head []byte
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, b...) {
		if _, err := io.ReadFull(conn, b); err != nil {
			return err
		}
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) || bytes.Contains(head, []byte("Extensions")) {
		return fmt.Errorf("answered with %q", head)
	}
	return nil
}

// paths are the ways by which a message gets to a socket.
var paths = map[string]struct{ queue, tls bool }{
	"fast":  {},
	"queue": {queue: true},
	"TLS":   {tls: true},
}

// A bubble is a hub on a network in memory, with a clock of its own.
type bubble struct {
	t      *testing.T
	path   string
	hub    *hub.Hub
	net    *memnet.Listener
	joined chan *hub.Client
}

// smallSockets hold little, so that writes are cut into pieces.
var smallSockets = []memnet.Option{memnet.WithBuffer(1000), memnet.WithShortWrites(700)}

// inBubble runs f once for each path.
func inBubble(t *testing.T, sockets []memnet.Option, f func(t *testing.T, b *bubble), opts ...hub.HubOption) {
	for path := range paths {
		t.Run(path, func(t *testing.T) { inBubbleBy(t, path, sockets, f, opts...) })
	}
}

// inBubbleBy runs f. The rooms' messages are on the wire as they were published.
func inBubbleBy(t *testing.T, path string, sockets []memnet.Option, f func(t *testing.T, b *bubble), opts ...hub.HubOption) {
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, path: path, net: memnet.Listen(sockets...), joined: make(chan *hub.Client, 10)}
		b.hub = hub.New(append([]hub.HubOption{
			hub.WithTextFormat(hub.RawText()),
			hub.WithOnJoin(func(c *hub.Client, _ *hub.Room) { b.joined <- c }),
			hub.WithLogger(slog.New(slog.DiscardHandler)),
		}, opts...)...)
		s := &http.Server{Handler: mux(b.hub), ErrorLog: log.New(io.Discard, "", 0)}
		var l net.Listener = b.net
		if paths[path].queue {
			l = queueListener{l}
		}
		if paths[path].tls {
			l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
		}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { // after those of the connections
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_ = b.hub.Shutdown(ctx)
			_ = s.Close()
		})
		f(t, b)
	})
}

// A queueListener's connections have no write that never waits.
type queueListener struct{ net.Listener }

func (l queueListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return queueConn{c}, err
}

type queueConn struct{ net.Conn }

func (c queueConn) CloseWrite() error { return c.Conn.(*memnet.Conn).CloseWrite() }

func certificate(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(1, 0, 0), DNSNames: []string{"hub"}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// dial connects to the lobby and waits until the client is in.
func (b *bubble) dial(query, subprotocol string) (*wire, *hub.Client) {
	b.t.Helper()
	conn, err := b.net.Dial(context.Background())
	require.NoError(b.t, err)
	w := &wire{Conn: conn, pacer: &pacer{Conn: conn}}
	if paths[b.path].tls {
		w.Conn = tls.Client(w.pacer, &tls.Config{InsecureSkipVerify: true})
	} else {
		w.Conn = w.pacer
	}
	b.t.Cleanup(func() { _ = w.Close() })
	require.NoError(b.t, shake(w.Conn, "/chat/lobby?"+query, subprotocol))
	return w, <-b.joined
}

// publish lets the service say something in the lobby.
func (b *bubble) publish(messages ...string) {
	b.t.Helper()
	r, err := b.hub.Room("lobby")
	require.NoError(b.t, err)
	for _, m := range messages {
		_, err := r.Publish(context.Background(), hub.Text(m))
		require.NoError(b.t, err)
	}
}

// distinct returns n messages of that size, no part of which is like another's.
func distinct(n, size int) []string {
	all := make([]string, n)
	for i := range all {
		var s strings.Builder
		for s.Len() < size {
			fmt.Fprintf(&s, "%d.%d ", i, s.Len())
		}
		all[i] = s.String()[:size]
	}
	return all
}

// lost tells whether the hub lost the client without a close frame of either side.
func lost(c *hub.Client) bool {
	var ce *hub.CloseError
	return errors.As(c.Err(), &ce) && ce.Code == hub.CodeLost
}

// dialTCP connects with room for so many bytes that the client does not read; 0 is the system's choice.
func dialTCP(to target, room int) (*wire, error) {
	u, err := url.Parse(to.url)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return nil, err
	}
	if room > 0 {
		_ = conn.(*net.TCPConn).SetReadBuffer(room)
	}
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	w := &wire{pacer: &pacer{Conn: conn}}
	w.Conn = w.pacer
	if u.Scheme == "wss" {
		w.Conn = tls.Client(w.pacer, &tls.Config{RootCAs: to.roots, ServerName: "example.com"})
	}
	return w, shake(w.Conn, u.Path, "")
}

// expectGoodbye shuts the hub down.
func (w *wire) expectGoodbye(t *testing.T, h *hub.Hub) {
	t.Helper()
	down := make(chan error, 1)
	go func() { down <- h.Shutdown(context.Background()) }()
	w.expectClose(t, hub.CodeRestart)
	require.NoError(t, w.Close())
	require.NoError(t, <-down)
}
