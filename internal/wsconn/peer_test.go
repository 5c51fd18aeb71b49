package wsconn

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chathub-go/hub/internal/memnet"
	"github.com/stretchr/testify/require"
)

// A frame is one as the tests' own parser found it.
type frame struct {
	op      byte
	payload string
}

func text(s string) frame { return frame{1, s} }

func closing(code uint16, reason string) frame {
	return frame{8, string(binary.BigEndian.AppendUint16(nil, code)) + reason}
}

func (f frame) String() string {
	if f.op == 8 && len(f.payload) >= 2 {
		return fmt.Sprintf("close %d %q", binary.BigEndian.Uint16([]byte(f.payload)), f.payload[2:])
	}
	if len(f.payload) > 40 {
		return fmt.Sprintf("op %d, %d bytes", f.op, len(f.payload))
	}
	return fmt.Sprintf("op %d %q", f.op, f.payload)
}

// readFrame parses one frame of a server by the letter of RFC 6455, section 5.2.
func readFrame(r io.Reader) (frame, error) {
	var h [2]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return frame{}, err
	}
	if h[0]&0xF0 != 0x80 {
		return frame{}, fmt.Errorf("first byte %#x: not one whole frame with no reserved bits", h[0])
	}
	if h[1]&0x80 != 0 {
		return frame{}, errors.New("a server's frame is masked")
	}
	n := uint64(h[1])
	var ext [8]byte
	switch n {
	case 126:
		if _, err := io.ReadFull(r, ext[:2]); err != nil {
			return frame{}, noEOF(err)
		}
		if n = uint64(binary.BigEndian.Uint16(ext[:])); n < 126 {
			return frame{}, errors.New("length is not minimal")
		}
	case 127:
		if _, err := io.ReadFull(r, ext[:]); err != nil {
			return frame{}, noEOF(err)
		}
		if n = binary.BigEndian.Uint64(ext[:]); n < 1<<16 || n > 1<<30 {
			return frame{}, fmt.Errorf("length %d is not minimal or absurd", n)
		}
	}
	if h[0]&0x08 != 0 && n > 125 {
		return frame{}, errors.New("control frame too long")
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		return frame{}, noEOF(err)
	}
	return frame{h[0] & 0x0F, string(p)}, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// maskedFrame is a client's frame; head is its first byte.
func maskedFrame(head byte, payload string) []byte {
	dst := []byte{head}
	switch n := len(payload); {
	case n <= 125:
		dst = append(dst, 0x80|byte(n))
	case n <= 0xFFFF:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	key := [4]byte{0x11, 0x22, 0x33, 0x44}
	dst = append(dst, key[:]...)
	for i := range len(payload) {
		dst = append(dst, payload[i]^key[i%4])
	}
	return dst
}

// A peer is the client's end of a connection under test, after the handshake.
type peer struct {
	net.Conn
	r *bufio.Reader
}

func (p *peer) send(t testing.TB, op byte, payload string) {
	t.Helper()
	_, err := p.Write(maskedFrame(0x80|op, payload))
	require.NoError(t, err)
}

// expect reads the next frames and compares them.
func (p *peer) expect(t testing.TB, want ...frame) {
	t.Helper()
	for i, w := range want {
		got, err := readFrame(p.r)
		require.NoError(t, err, "frame %d, want %v", i, w)
		require.Equal(t, w.String(), got.String(), "frame %d", i)
		require.True(t, w == got, "frame %d differs", i)
	}
}

// expectEOF wants nothing more.
func (p *peer) expectEOF(t testing.TB) {
	t.Helper()
	f, err := readFrame(p.r)
	require.Equal(t, io.EOF, err, "got %v", f)
}

// rest reads until the end.
func (p *peer) rest() (all []frame, err error) {
	for {
		f, err := readFrame(p.r)
		if err != nil {
			return all, err
		}
		all = append(all, f)
	}
}

// handshake is a request that Check has nothing to say against.
func handshake() *http.Request {
	r := httptest.NewRequest("GET", "http://chat.example/room", nil)
	r.Header.Set("Connection", "keep-alive, Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	return r
}

// A hijackable is net/http's ResponseWriter over any connection.
type hijackable struct {
	*httptest.ResponseRecorder
	conn  net.Conn
	early string // came in one segment with the request
}

func (h *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	br := bufio.NewReader(io.MultiReader(strings.NewReader(h.early), h.conn))
	if h.early != "" {
		br.Peek(len(h.early))
	}
	return h.conn, bufio.NewReadWriter(br, bufio.NewWriter(h.conn)), nil
}

// accept makes a Conn of one end of a connection and a peer of the other.
func accept(t testing.TB, server, client net.Conn, o *Options) (*Conn, *peer) {
	t.Helper()
	w := &hijackable{ResponseRecorder: httptest.NewRecorder(), conn: server}
	c, err := Accept(w, handshake(), o)
	require.NoError(t, err)
	p := &peer{client, bufio.NewReader(client)}
	resp, err := http.ReadResponse(p.r, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	t.Cleanup(func() {
		p.Close()
		c.Abort()
		c.Finish()
	})
	return c, p
}

// memPair is a connection in memory.
func memPair(t testing.TB, o *Options, opts ...memnet.Option) (*Conn, *peer) {
	t.Helper()
	a, b := memnet.Pipe(append([]memnet.Option{memnet.WithBuffer(4096)}, opts...)...)
	return accept(t, a, b, o)
}

// tcpConns is a connection over TCP.
func tcpConns(t testing.TB) (server, client *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	other, err := l.Accept()
	require.NoError(t, err)
	return other.(*net.TCPConn), conn.(*net.TCPConn)
}

func tcpPair(t testing.TB, o *Options) (*Conn, *peer) {
	t.Helper()
	server, client := tcpConns(t)
	return accept(t, server, client, o)
}

// tlsPair is a connection over TLS over TCP.
func tlsPair(t testing.TB, o *Options) (*Conn, *peer) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS() // for its certificate
	config := s.TLS
	s.Close()
	server, client := tcpConns(t)
	tlsClient := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
	var wg sync.WaitGroup
	wg.Go(func() { tlsClient.Handshake() })
	tlsServer := tls.Server(server, config)
	require.NoError(t, tlsServer.Handshake())
	wg.Wait()
	return accept(t, tlsServer, tlsClient, o)
}

// A reading is a goroutine that reads until Read fails, and finishes.
type reading struct {
	done     chan struct{}
	messages []frame
	err      error
}

func startReader(t testing.TB, c *Conn) *reading {
	r := &reading{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for {
			op, p, err := c.Read(t.Context())
			if err != nil {
				r.err = err
				c.Finish()
				return
			}
			r.messages = append(r.messages, frame{byte(op), string(p)})
		}
	}()
	return r
}

// closed waits for the end and returns why.
func (r *reading) closed(t testing.TB) *CloseError {
	t.Helper()
	<-r.done
	var ce *CloseError
	require.ErrorAs(t, r.err, &ce)
	return ce
}

func batch(texts ...string) *Batch {
	var frames []*Frame
	for _, s := range texts {
		frames = append(frames, NewFrame(OpText, []byte(s)))
	}
	return NewBatch(frames...)
}

// onBothPaths runs a test with and without the fast path.
func onBothPaths(t *testing.T, f func(t *testing.T)) {
	was := noFastPath
	defer func() { noFastPath = was }()
	for _, off := range []bool{false, true} {
		noFastPath = off || was
		t.Run(map[bool]string{false: "fast path", true: "queue"}[noFastPath], f)
		if was {
			return
		}
	}
}

// numbered makes the texts prefix0, prefix1...
func numbered(prefix string, n int) []string {
	return slices.Collect(func(yield func(string) bool) {
		for i := range n {
			if !yield(fmt.Sprint(prefix, i)) {
				return
			}
		}
	})
}

// together starts f n times at once and waits for all.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}
