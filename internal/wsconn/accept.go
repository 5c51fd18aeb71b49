package wsconn

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Accept makes a socket of the request. Where it fails, it has answered the request, as
// long as there was someone to answer: what [Check] refuses, 501 where the connection
// can't be had (HTTP/2, a middleware that hides it).
func Accept(w http.ResponseWriter, r *http.Request, o *Options) (*Conn, error) {
	if !Check(w, r, o) {
		return nil, errHandshake
	}
	offer, known := selectSubprotocol(r, o.Subprotocols)
	c := newConn(o, known)
	c.deflates = o.Compress && offersDeflate(r.Header["Sec-Websocket-Extensions"])
	header := answerHeader(w.Header(), o.Header, offer)
	header.Set("Sec-WebSocket-Accept", acceptKey(r.Header.Get("Sec-WebSocket-Key")))
	if c.deflates {
		header.Set("Sec-WebSocket-Extensions", deflateAnswer)
	}
	conn, brw, err := hijack(w)
	if errors.Is(err, http.ErrNotSupported) {
		http.Error(w, "this server can't make a WebSocket of the request: its connection is not to be had here", http.StatusNotImplemented)
		return nil, fmt.Errorf("hub: handshake: %w", err)
	}
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return nil, fmt.Errorf("hub: handshake: %w", err)
	}
	early, err := readBuffered(brw.Reader)
	if err == nil {
		err = answer(conn, header, c.writeTimeout)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("hub: handshake: %w", err)
	}
	c.start(conn, early)
	return c, nil
}

var errHandshake = errors.New("hub: handshake refused")

// acceptKey proves that the handshake was understood (RFC 6455, section 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// answerHeader is the header of the 101: what middleware has set by now (a cookie, say), the
// server's own, and the subprotocol in the client's spelling, as RFC 6455, section 4.2.2 wants
// it.
func answerHeader(middleware, own http.Header, subprotocol string) http.Header {
	h := make(http.Header, len(middleware)+len(own)+5)
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
	h.Set("Upgrade", "websocket")
	h.Set("Connection", "Upgrade")
	if subprotocol != "" {
		h.Set("Sec-WebSocket-Protocol", subprotocol)
	}
	return h
}

// answer writes the 101, and leaves the connection with no deadline.
func answer(conn net.Conn, header http.Header, timeout time.Duration) error {
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	if err := header.Write(&b); err != nil {
		return err
	}
	b.WriteString("\r\n")
	conn.SetReadDeadline(time.Time{}) // net/http's, or a middleware's
	conn.SetWriteDeadline(time.Now().Add(timeout))
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
