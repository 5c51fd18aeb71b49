package wsconn

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"nhooyr.io/websocket"
)

const (
	// readBuffer is for frame headers and small messages; what is larger is read past it.
	readBuffer = 4 << 10

	// writeBuffer holds any control frame (127 bytes), all that nhooyr writes here, so that
	// each is one Write.
	writeBuffer = 256

	// maxReaders is how many readers are kept. More are in use only while as many
	// connections are in the middle of a message at the same time.
	maxReaders = 64
)

// Readers are the readers that a server's connections share, see [Options]. The zero value
// is empty. Its methods may be called concurrently.
type Readers struct {
	mu     sync.Mutex // guards what follows
	free   []*reader
	closed bool
}

// Close ends the readers that nobody uses, and lets no other be kept. It waits for their
// goroutines.
func (rs *Readers) Close() {
	rs.mu.Lock()
	free := rs.free
	rs.free, rs.closed = nil, true
	rs.mu.Unlock()
	for _, r := range free {
		r.close()
	}
}

// get returns a reader; where none is free, a new one.
func (rs *Readers) get() (*reader, error) {
	rs.mu.Lock()
	if last := len(rs.free) - 1; last >= 0 {
		r := rs.free[last]
		rs.free[last] = nil
		rs.free = rs.free[:last]
		rs.mu.Unlock()
		return r, nil
	}
	rs.mu.Unlock()
	return newReader()
}

// put takes a reader back that stands between two messages.
func (rs *Readers) put(r *reader) {
	rs.mu.Lock()
	if !rs.closed && len(rs.free) < maxReaders {
		rs.free = append(rs.free, r)
		r = nil
	}
	rs.mu.Unlock()
	if r != nil {
		r.close()
	}
}

// A reader is a connection of nhooyr's that was never dialed: it reads, unmasks and checks
// messages for the one it is lent to. Between two messages it knows nothing of either, so the
// next may be another connection's. It does not inflate: a deflated message it reads as it is. A
// connection at rest has none, which saves it some 3 KiB, a stack and a goroutine.
type reader struct {
	ws *websocket.Conn
	t  transport
	br *bufio.Reader
}

func newReader() (*reader, error) {
	r := &reader{}
	ws, err := websocket.Accept(&nowhere{r: r, header: make(http.Header, 4)}, handshakeRequest,
		&websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	r.ws = ws
	return r, err
}

// close ends the reader, whoever it was lent to, and waits for its goroutine.
func (r *reader) close() {
	r.t.c.Store(nil)
	r.ws.CloseNow()
}

// handshakeRequest is a request that nhooyr accepts.
var handshakeRequest = &http.Request{Method: http.MethodGet, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{
	"Connection":            {"Upgrade"},
	"Upgrade":               {"websocket"},
	"Sec-Websocket-Version": {"13"},
	"Sec-Websocket-Key":     {"AAAAAAAAAAAAAAAAAAAAAA=="},
}}

// nowhere is the ResponseWriter of a reader's handshake.
type nowhere struct {
	r      *reader
	header http.Header
}

func (n *nowhere) Header() http.Header         { return n.header }
func (n *nowhere) WriteHeader(int)             {}
func (n *nowhere) Write(p []byte) (int, error) { return len(p), nil }

func (n *nowhere) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	t := &n.r.t
	n.r.br = bufio.NewReaderSize(t, readBuffer)
	return t, bufio.NewReadWriter(n.r.br, bufio.NewWriterSize(t, writeBuffer)), nil
}

// A transport is a connection as nhooyr sees it. What nhooyr writes are control frames, one
// a Write: pongs go their way, and of a close frame only its code is noted.
type transport struct {
	// c is who it reads for, nil for nobody. Nhooyr's goroutine may call Close at any time: when
	// the five seconds that it gives a ping are over, while the reader is taken back.
	c atomic.Pointer[Conn]
}

func (t *transport) Read(p []byte) (int, error) {
	c := t.c.Load()
	if len(c.input) > 0 {
		n := copy(p, c.input)
		c.consume(n)
		return n, nil
	}
	n, err := c.conn.Read(p)
	return c.arrived(n, err)
}

// arrived notes that bytes came, or that no more will. Reading goroutine only.
func (c *Conn) arrived(n int, err error) (int, error) {
	if n > 0 {
		c.lastRead.Store(int64(time.Since(c.accepted)))
		return n, nil // an error comes again
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // the deadline is ours: wakeReader
		c.lost = err
	}
	return 0, err
}

func (t *transport) Write(p []byte) (int, error) {
	switch p[0] & 0x0F {
	case opPong:
		t.c.Load().sendPong(p)
	case opClose:
		if len(p) >= 4 {
			t.c.Load().nhooyr = int(binary.BigEndian.Uint16(p[2:]))
		}
	}
	return len(p), nil
}

// Close ends a Read that waits, and leaves the transport to Finish.
func (t *transport) Close() error {
	if c := t.c.Load(); c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.wakeReader()
	}
	return nil
}

func (t *transport) LocalAddr() net.Addr              { return nil }
func (t *transport) RemoteAddr() net.Addr             { return nil }
func (t *transport) SetDeadline(time.Time) error      { return nil }
func (t *transport) SetReadDeadline(time.Time) error  { return nil }
func (t *transport) SetWriteDeadline(time.Time) error { return nil }
