package wsconn

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"nhooyr.io/websocket"
)

const (
	// readBuffer is for frame headers and small messages; what is larger is read past it.
	readBuffer = 512

	// writeBuffer holds any control frame (127 bytes), all that nhooyr writes here, so that
	// each is one Write.
	writeBuffer = 256
)

// Accept makes a socket of the request. Where it fails, it has answered the request, as
// long as there was someone to answer: what [Check] refuses, 501 where the connection
// can't be had (HTTP/2, a middleware that hides it).
func Accept(w http.ResponseWriter, r *http.Request, o *Options) (*Conn, error) {
	if !Check(w, r, o) {
		return nil, errHandshake
	}
	offer, known := selectSubprotocol(r, o.Subprotocols)
	hw := &handshakeWriter{
		w:       w,
		header:  answerHeader(w.Header(), o.Header, offer),
		timeout: or(o.WriteTimeout, defaultWriteTimeout),
		c:       newConn(o, known),
	}
	// In this mode nhooyr's answer insists on no context takeover both ways.
	mode := websocket.CompressionDisabled
	if o.Compress {
		mode = websocket.CompressionNoContextTakeover
	}
	ws, err := websocket.Accept(hw, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: mode})
	switch {
	case err == nil:
		ws.SetReadLimit(or(o.ReadLimit, defaultReadLimit))
		hw.c.ws = ws
		hw.c.deflates = hw.header.Get("Sec-WebSocket-Extensions") != ""
		return hw.c, nil
	case hw.hijacked:
		return nil, fmt.Errorf("hub: handshake: %w", hw.err)
	case errors.Is(hw.err, http.ErrNotSupported):
		http.Error(w, "this server can't make a WebSocket of the request: its connection is not to be had here", http.StatusNotImplemented)
		return nil, fmt.Errorf("hub: handshake: %w", hw.err)
	default:
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return nil, fmt.Errorf("hub: handshake: %w", err)
	}
}

var errHandshake = errors.New("hub: handshake refused")

// answerHeader is the header of the 101 but for what nhooyr adds to it: what middleware
// has set by now (a cookie, say), the server's own, and the subprotocol in the client's
// spelling, as RFC 6455, section 4.2.2 wants it.
func answerHeader(middleware, own http.Header, subprotocol string) http.Header {
	h := make(http.Header, len(middleware)+len(own)+4)
	for _, from := range []http.Header{middleware, own} {
		for k, v := range from {
			k = http.CanonicalHeaderKey(k)
			h[k] = append(h[k], v...)
		}
	}
	for _, k := range []string{"Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Trailer",
		"Sec-Websocket-Accept", "Sec-Websocket-Extensions", "Sec-Websocket-Protocol"} {
		delete(h, k)
	}
	if subprotocol != "" {
		h.Set("Sec-WebSocket-Protocol", subprotocol)
	}
	return h
}

// A handshakeWriter is the ResponseWriter that nhooyr answers to. It holds the 101 back
// until the connection is had, so that a failure can still be answered over HTTP.
type handshakeWriter struct {
	w        http.ResponseWriter
	header   http.Header
	timeout  time.Duration
	c        *Conn
	hijacked bool
	err      error // of Hijack
}

func (hw *handshakeWriter) Header() http.Header         { return hw.header }
func (hw *handshakeWriter) WriteHeader(int)             {}
func (hw *handshakeWriter) Write(p []byte) (int, error) { return len(p), nil }

// Hijack takes the connection over, answers the handshake, and gives nhooyr the reading
// side with small buffers: net/http's are 4 KiB each.
func (hw *handshakeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := hijack(hw.w)
	if err != nil {
		hw.err = err
		return nil, nil, err
	}
	hw.hijacked = true
	early, err := readBuffered(brw.Reader)
	if err == nil {
		err = hw.answer(conn)
	}
	if err != nil {
		hw.err = err
		conn.Close()
		return nil, nil, err
	}
	hw.c.start(conn, early)
	t := &transport{hw.c}
	return t, bufio.NewReadWriter(bufio.NewReaderSize(t, readBuffer), bufio.NewWriterSize(t, writeBuffer)), nil
}

// answer writes the 101, and leaves the connection with no deadline.
func (hw *handshakeWriter) answer(conn net.Conn) error {
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	if err := hw.header.Write(&b); err != nil {
		return err
	}
	b.WriteString("\r\n")
	conn.SetReadDeadline(time.Time{}) // net/http's, or a middleware's
	conn.SetWriteDeadline(time.Now().Add(hw.timeout))
	_, err := conn.Write(b.Bytes())
	conn.SetWriteDeadline(time.Time{})
	return err
}

// readBuffered returns what the peer sent in one segment with its request.
func readBuffered(r *bufio.Reader) ([]byte, error) {
	if r.Buffered() == 0 {
		return nil, nil
	}
	p := make([]byte, r.Buffered())
	_, err := io.ReadFull(r, p)
	return p, err
}

// hijack takes the connection from under any number of wrappers. Some (gin's) have a
// Hijack that panics where the writer they wrap has none of its own: then the search goes
// on below them.
func hijack(w http.ResponseWriter) (conn net.Conn, brw *bufio.ReadWriter, err error) {
	defer func() {
		if recover() == nil {
			return
		}
		err = fmt.Errorf("%T: %w", w, http.ErrNotSupported)
		if u, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok {
			conn, brw, err = hijack(u.Unwrap())
		}
	}()
	return http.NewResponseController(w).Hijack()
}
