package wsconn

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"

	"nhooyr.io/websocket"
)

// DialOptions are the options of [Dial]; the zero value is useful.
type DialOptions struct {
	Subprotocols []string
	Header       http.Header
	HTTPClient   *http.Client // nil: http.DefaultClient
	ReadLimit    int64        // bytes of one message; 0: 1 MiB, negative: none
	Compress     bool         // offers permessage-deflate with no context takeover
}

// A ClientConn is the client's side of a socket. Read belongs to one goroutine; the
// other methods may be called concurrently.
type ClientConn struct {
	ws        *websocket.Conn
	transport *clientTransport // nil: not known
}

// maxRedirects is how often a handshake is sent elsewhere, as with net/http.
const maxRedirects = 10

var errRedirects = errors.New("wsconn: stopped after 10 redirects")

// A handshaker keeps what a handshake leads to.
type handshaker struct {
	http.RoundTripper
	transport *clientTransport
}

// A clientTransport can be closed while nhooyr waits for the peer, and knows when reading from it has failed.
type clientTransport struct {
	io.ReadWriteCloser
	lost atomic.Bool
}

func (t *clientTransport) Read(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Read(p)
	if err != nil {
		t.lost.Store(true)
	}
	return n, err
}

func (h *handshaker) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Response != nil { // a redirect: net/http tells it the URL before, which may hold a secret
		r = r.Clone(r.Context())
		r.Header.Del("Referer")
	}
	resp, err := h.RoundTripper.RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		if body, ok := resp.Body.(io.ReadWriteCloser); ok {
			h.transport = &clientTransport{ReadWriteCloser: body}
			resp.Body = h.transport
		}
	}
	return resp, err
}

// Dial opens a socket. The URL's scheme is ws, wss, http or https. Where the server
// answered with something else than a socket, the response is not nil, and holds the
// first 1,024 bytes of the answer.
func Dial(ctx context.Context, url string, o DialOptions) (*ClientConn, *http.Response, error) {
	mode := websocket.CompressionDisabled
	if o.Compress {
		mode = websocket.CompressionNoContextTakeover
	}
	client := http.DefaultClient
	if o.HTTPClient != nil {
		client = o.HTTPClient
	}
	handshake := &handshaker{RoundTripper: client.Transport}
	if handshake.RoundTripper == nil {
		handshake.RoundTripper = http.DefaultTransport
	}
	own := *client
	own.Transport = handshake
	if own.CheckRedirect == nil { // nhooyr would follow without end
		own.CheckRedirect = func(_ *http.Request, via []*http.Request) error {
			if len(via) >= maxRedirects {
				return errRedirects
			}
			return nil
		}
	}
	ws, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		HTTPClient:      &own,
		HTTPHeader:      o.Header,
		Subprotocols:    o.Subprotocols,
		CompressionMode: mode,
	})
	if err != nil {
		return nil, resp, err
	}
	if o.ReadLimit == 0 {
		o.ReadLimit = 1 << 20
	}
	ws.SetReadLimit(o.ReadLimit)
	return &ClientConn{ws, handshake.transport}, resp, nil
}

// Subprotocol returns the one that the server chose, or "".
func (c *ClientConn) Subprotocol() string { return c.ws.Subprotocol() }

// SetReadLimit sets the bytes of one message, from the next one on. It may be called by the reader alone.
func (c *ClientConn) SetReadLimit(n int64) { c.ws.SetReadLimit(n) }

// Read returns the next message. Its error is a [*CloseError]. When ctx ends, the
// connection ends with it.
func (c *ClientConn) Read(ctx context.Context) (Opcode, []byte, error) {
	typ, p, err := c.ws.Read(ctx)
	if err == nil && c.transport != nil && c.transport.lost.Load() {
		err = io.ErrUnexpectedEOF // nhooyr takes a message that was cut short behind its header for an empty one
	}
	if err == nil {
		return Opcode(typ), p, nil
	}
	if ce, ok := errors.AsType[websocket.CloseError](err); ok {
		return 0, nil, &CloseError{Code: int(ce.Code), Reason: ce.Reason, Remote: true, Err: err}
	}
	return 0, nil, &CloseError{Code: 1006, Err: err}
}

// Write sends one message.
func (c *ClientConn) Write(ctx context.Context, op Opcode, p []byte) error {
	return c.ws.Write(ctx, websocket.MessageType(op), p)
}

// Close sends a close frame and waits for the server's, 5 s at most.
func (c *ClientConn) Close(code int, reason string) error {
	return c.ws.Close(websocket.StatusCode(code), reason)
}

// CloseNow closes the connection with no close frame. It ends a Close that waits.
func (c *ClientConn) CloseNow() {
	if c.transport != nil {
		_ = c.transport.Close()
	}
	_ = c.ws.CloseNow()
}
