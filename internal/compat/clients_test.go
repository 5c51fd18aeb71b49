package compat

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/gorilla/websocket"
	"github.com/lxzan/gws"
	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for something that must come.
const patience = 20 * time.Second

// A peer is a client made with somebody else's library.
type peer interface {
	Send(text string) error
	// Recv waits for the next text message. Its error is a closed once the hub closed.
	Recv() (string, error)
	// Close closes with a handshake and returns the code of the hub's answer, 0 where the library
	// doesn't tell.
	Close(code int, reason string) (int, error)
	// Drop closes the transport; a second one does nothing.
	Drop()
}

// A closed is the close frame that the hub sent.
type closed struct {
	Code   int
	Reason string
}

func (c closed) Error() string { return fmt.Sprintf("closed with %d %q", c.Code, c.Reason) }

// A dialer connects to a target with one library. An empty subprotocol is the plain-text door.
type dialer func(t *testing.T, to target, query, subprotocol string) peer

var dialers = map[string]dialer{
	"gorilla": dialGorilla,
	"coder":   dialCoder,
	"gobwas":  dialGobwas,
	"gws":     dialGWS,
	"node ws": dialNode,
}

func offered(subprotocol string) []string {
	if subprotocol == "" {
		return nil
	}
	return []string{subprotocol}
}

type gorillaPeer struct{ conn *websocket.Conn }

func dialGorilla(t *testing.T, to target, query, subprotocol string) peer {
	d := websocket.Dialer{
		Subprotocols:     offered(subprotocol),
		TLSClientConfig:  to.tls(),
		HandshakeTimeout: patience,

		EnableCompression: to.deflate,
	}
	conn, _, err := d.Dial(to.url+query, nil)
	require.NoError(t, err)
	require.Equal(t, subprotocol, conn.Subprotocol())
	return gorillaPeer{conn}
}

func (p gorillaPeer) Send(text string) error {
	return p.conn.WriteMessage(websocket.TextMessage, []byte(text))
}

func (p gorillaPeer) Recv() (string, error) {
	p.conn.SetReadDeadline(time.Now().Add(patience))
	_, text, err := p.conn.ReadMessage()
	var ce *websocket.CloseError
	if errors.As(err, &ce) {
		err = closed{ce.Code, ce.Text}
		p.conn.Close() // as whoever uses this library does
	}
	return string(text), err
}

func (p gorillaPeer) Close(code int, reason string) (int, error) {
	body := websocket.FormatCloseMessage(code, reason)
	if err := p.conn.WriteControl(websocket.CloseMessage, body, time.Now().Add(patience)); err != nil {
		return 0, err
	}
	return answered(p)
}

func (p gorillaPeer) Drop() { p.conn.Close() }

// answered reads up to the hub's answer to a close frame.
func answered(p peer) (int, error) {
	for {
		_, err := p.Recv()
		var c closed
		if errors.As(err, &c) {
			return c.Code, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

type coderPeer struct{ conn *coder.Conn }

func dialCoder(t *testing.T, to target, query, subprotocol string) peer {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	transport := &http.Transport{TLSClientConfig: to.tls()}
	conn, _, err := coder.Dial(ctx, to.url+query, &coder.DialOptions{
		Subprotocols: offered(subprotocol),
		HTTPClient:   &http.Client{Transport: transport},

		CompressionMode:      map[bool]coder.CompressionMode{true: coder.CompressionNoContextTakeover}[to.deflate],
		CompressionThreshold: 1,
	})
	require.NoError(t, err)
	require.Equal(t, subprotocol, conn.Subprotocol())
	conn.SetReadLimit(-1)
	return coderPeer{conn}
}

func (p coderPeer) Send(text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return p.conn.Write(ctx, coder.MessageText, []byte(text))
}

func (p coderPeer) Recv() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, text, err := p.conn.Read(ctx)
	var ce coder.CloseError
	if errors.As(err, &ce) {
		err = closed{int(ce.Code), ce.Reason}
	}
	return string(text), err
}

// Close is nil only where the hub answered in time with the same code.
func (p coderPeer) Close(code int, reason string) (int, error) {
	return code, p.conn.Close(coder.StatusCode(code), reason)
}

func (p coderPeer) Drop() { p.conn.CloseNow() }

type gobwasPeer struct {
	net.Conn
	in io.Reader // what came with the handshake's answer, then the conn
}

func (p gobwasPeer) Read(b []byte) (int, error) { return p.in.Read(b) }

func dialGobwas(t *testing.T, to target, query, subprotocol string) peer {
	d := ws.Dialer{Protocols: offered(subprotocol), TLSConfig: to.tls(), Timeout: patience}
	conn, early, hs, err := d.Dial(context.Background(), to.url+query)
	require.NoError(t, err)
	require.Equal(t, subprotocol, hs.Protocol)
	p := gobwasPeer{conn, conn}
	if early != nil {
		p.in = early
	}
	return p
}

func (p gobwasPeer) Send(text string) error { return wsutil.WriteClientText(p.Conn, []byte(text)) }

// Recv reads frames itself: the library's helpers take the codes 1012 and 1013 for a protocol error,
// since they were registered after RFC 6455.
func (p gobwasPeer) Recv() (string, error) {
	p.SetReadDeadline(time.Now().Add(patience))
	for {
		h, err := ws.ReadHeader(p)
		if err != nil {
			return "", err
		}
		if err := ws.CheckHeader(h, ws.StateClientSide); err != nil {
			return "", err
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(p, payload); err != nil {
			return "", err
		}
		switch h.OpCode {
		case ws.OpText:
			return string(payload), nil
		case ws.OpPing:
			if err := ws.WriteFrame(p.Conn, ws.MaskFrame(ws.NewPongFrame(payload))); err != nil {
				return "", err
			}
		case ws.OpClose:
			code, reason := ws.ParseCloseFrameData(payload)
			answer := ws.NewCloseFrame(ws.NewCloseFrameBody(code, ""))
			ws.WriteFrame(p.Conn, ws.MaskFrame(answer)) // fails where this is an answer
			p.Conn.Close()
			return "", closed{int(code), reason}
		}
	}
}

func (p gobwasPeer) Close(code int, reason string) (int, error) {
	f := ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusCode(code), reason))
	if err := ws.WriteFrame(p.Conn, ws.MaskFrame(f)); err != nil {
		return 0, err
	}
	return answered(p)
}

func (p gobwasPeer) Drop() { p.Conn.Close() }

type gwsPeer struct {
	gws.BuiltinEventHandler
	conn  *gws.Conn
	texts chan string
	end   chan error // closed after one
}

func dialGWS(t *testing.T, to target, query, subprotocol string) peer {
	p := &gwsPeer{texts: make(chan string, 100), end: make(chan error, 1)}
	header := http.Header{}
	if subprotocol != "" {
		header.Set("Sec-WebSocket-Protocol", subprotocol)
	}
	var err error
	p.conn, _, err = gws.NewClient(p, &gws.ClientOption{
		Addr:             to.url + query,
		TlsConfig:        to.tls(),
		RequestHeader:    header,
		HandshakeTimeout: patience,

		PermessageDeflate: gws.PermessageDeflate{Enabled: to.deflate, Threshold: 1},
	})
	require.NoError(t, err)
	require.Equal(t, subprotocol, p.conn.SubProtocol())
	go p.conn.ReadLoop()
	return p
}

func (p *gwsPeer) OnMessage(_ *gws.Conn, m *gws.Message) {
	p.texts <- string(m.Bytes())
	m.Close()
}

func (p *gwsPeer) OnClose(_ *gws.Conn, err error) {
	var ce *gws.CloseError
	if errors.As(err, &ce) {
		err = closed{int(ce.Code), string(ce.Reason)}
	}
	p.end <- err
	close(p.texts)
}

func (p *gwsPeer) Send(text string) error { return p.conn.WriteString(text) }

func (p *gwsPeer) Recv() (string, error) {
	select {
	case text, ok := <-p.texts:
		if !ok {
			return "", <-p.end
		}
		return text, nil
	case <-time.After(patience):
		return "", os.ErrDeadlineExceeded
	}
}

// Close of this library closes the transport right after its close frame.
func (p *gwsPeer) Close(code int, reason string) (int, error) {
	return 0, p.conn.WriteClose(uint16(code), []byte(reason))
}

func (p *gwsPeer) Drop() { p.conn.NetConn().Close() }

type nodePeer struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	events chan nodeEvent
}

type nodeEvent struct {
	Open     bool
	Protocol string
	Text     *string
	Error    string
	Closed   int
	Reason   string
}

func dialNode(t *testing.T, to target, query, subprotocol string) peer {
	cmd := exec.Command("node", "testdata/node/client.js", to.url+query, subprotocol)
	cmd.Env = append(os.Environ(), "CA="+to.pem)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &nodePeer{cmd: cmd, in: in, events: make(chan nodeEvent, 100)}
	go func() {
		defer close(p.events)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var e nodeEvent
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				e.Error = err.Error()
			}
			p.events <- e
		}
	}()
	t.Cleanup(p.Drop)
	e, err := p.next()
	require.NoError(t, err)
	require.True(t, e.Open)
	require.Equal(t, subprotocol, e.Protocol)
	return p
}

func (p *nodePeer) next() (nodeEvent, error) {
	select {
	case e, ok := <-p.events:
		switch {
		case !ok:
			return e, io.ErrUnexpectedEOF
		case e.Error != "":
			return e, errors.New(e.Error)
		case e.Closed != 0:
			return e, closed{e.Closed, e.Reason}
		}
		return e, nil
	case <-time.After(patience):
		return nodeEvent{}, os.ErrDeadlineExceeded
	}
}

func (p *nodePeer) command(v map[string]any) error { return json.NewEncoder(p.in).Encode(v) }

func (p *nodePeer) Send(text string) error { return p.command(map[string]any{"send": text}) }

func (p *nodePeer) Recv() (string, error) {
	e, err := p.next()
	if err != nil || e.Text == nil {
		return "", err
	}
	return *e.Text, nil
}

func (p *nodePeer) Close(code int, reason string) (int, error) {
	if err := p.command(map[string]any{"close": code, "reason": reason}); err != nil {
		return 0, err
	}
	return answered(p)
}

// Drop ends the program's input, whereupon it drops its connection and ends.
func (p *nodePeer) Drop() {
	if p.cmd.ProcessState != nil {
		return
	}
	p.in.Close()
	for range p.events {
	}
	p.cmd.Wait()
}

// needs skips the test where a program is missing, or fails it in CI, where none is.
func needs(t *testing.T, program string, args ...string) {
	t.Helper()
	err := exec.Command(program, args...).Run()
	if err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s %v: %v", program, args, err)
	}
	t.Skipf("%s %v: %v", program, args, err)
}

func (to target) tls() *tls.Config {
	if to.roots == nil {
		return nil
	}
	return &tls.Config{RootCAs: to.roots}
}
