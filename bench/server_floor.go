package main

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The floor is what a broadcast costs with no library at all: a loop of write(2) of a ready
// frame over the descriptors of the room. It reads the publishes (a goroutine for each
// connection, as all Go servers have) and does nothing else that a chat server has to do: one
// member that does not read holds up everybody.
//
// Batched, it writes whatever frames have come meanwhile with one call.
func floorHandler(batched bool) func(serverConfig) http.Handler {
	return func(serverConfig) http.Handler {
		var mu sync.Mutex
		rooms := make(map[string]*floorRoom) // guarded by mu
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, in, err := floorUpgrade(w, r)
			if err != nil {
				return
			}
			mu.Lock()
			name := r.PathValue("room")
			room, ok := rooms[name]
			if !ok {
				room = &floorRoom{batched: batched}
				rooms[name] = room
			}
			mu.Unlock()
			go room.serve(conn, in)
		})
	}
}

// floorUpgrade does the handshake and no more, with the headers that w has; what came with the
// request is in the returned slice.
func floorUpgrade(w http.ResponseWriter, r *http.Request) (*floorConn, []byte, error) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if key == "" {
		http.Error(w, "not a WebSocket request", http.StatusBadRequest)
		return nil, nil, errors.New("no key")
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	var answer bytes.Buffer
	answer.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n")
	_ = w.Header().Write(&answer)
	answer.WriteString("\r\n")
	if _, err := conn.Write(answer.Bytes()); err != nil {
		conn.Close()
		return nil, nil, err
	}
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	c := &floorConn{Conn: conn}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { c.fd = fd })
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return c, slices.Clone(early), nil
}

type floorConn struct {
	net.Conn
	fd uintptr // open while the connection is in its room
}

// write tries at once, and waits only where the socket is full.
func (c *floorConn) write(p []byte) {
	n, _, errno := syscall.RawSyscall(unix.SYS_WRITE, c.fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		n = 0
	}
	if int(n) < len(p) {
		_, _ = c.Conn.Write(p[n:])
	}
}

type floorRoom struct {
	batched bool

	mu      sync.Mutex
	members []*floorConn // guarded by mu; not changed while somebody writes
	pending []byte       // guarded by mu: frames that came while somebody wrote
	spare   []byte       // guarded by mu
	writing bool         // guarded by mu
	left    []*floorConn // guarded by mu: to be taken out when nobody writes
}

func (r *floorRoom) serve(c *floorConn, early []byte) {
	r.mu.Lock()
	r.members = append(r.members[:len(r.members):len(r.members)], c)
	r.mu.Unlock()
	var in *bufio.Reader
	if len(early) > 0 {
		in = bufio.NewReaderSize(io.MultiReader(&earlyReader{early}, c.Conn), 512)
	} else {
		in = bufio.NewReaderSize(c.Conn, 512)
	}
	var frame []byte
	for {
		var err error
		if frame, err = readPublish(in, frame[:0]); err != nil {
			break
		}
		if r.batched {
			r.publishBatched(frame)
		} else {
			r.publish(frame)
		}
	}
	r.leave(c)
}

type earlyReader struct{ b []byte }

func (e *earlyReader) Read(p []byte) (int, error) {
	if len(e.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, e.b)
	e.b = e.b[n:]
	return n, nil
}

func (r *floorRoom) publish(frame []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.members {
		c.write(frame)
	}
}

func (r *floorRoom) publishBatched(frame []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = append(r.pending, frame...)
	if r.writing {
		return
	}
	r.writing = true
	for len(r.pending) > 0 {
		batch, members := r.pending, r.members
		r.pending = r.spare[:0]
		r.mu.Unlock()
		for _, c := range members {
			c.write(batch)
		}
		r.mu.Lock()
		r.spare = batch
	}
	r.writing = false
	for _, c := range r.left {
		r.remove(c)
	}
	r.left = nil
}

func (r *floorRoom) leave(c *floorConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writing {
		r.left = append(r.left, c)
		return
	}
	r.remove(c)
}

// remove closes c. r.mu must be held, and nobody may be writing.
func (r *floorRoom) remove(c *floorConn) {
	r.members = slices.DeleteFunc(slices.Clone(r.members), func(m *floorConn) bool { return m == c })
	c.Close()
}

var errFrame = errors.New("not a masked text frame of at most 65,535 bytes, or the end")

// readPublish reads a client's text frame and appends the server's frame of the same text to
// dst.
func readPublish(in *bufio.Reader, dst []byte) ([]byte, error) {
	head, err := in.Peek(2)
	if err != nil {
		return dst, err
	}
	if head[0] != 0x81 || head[1]&0x80 == 0 || head[1] == 0xff {
		return dst, errFrame
	}
	size := int(head[1] & 0x7f)
	_, _ = in.Discard(2)
	if size == 126 {
		if head, err = in.Peek(2); err != nil {
			return dst, err
		}
		size = int(binary.BigEndian.Uint16(head))
		_, _ = in.Discard(2)
	}
	if head, err = in.Peek(4); err != nil {
		return dst, err
	}
	mask := [4]byte(head)
	_, _ = in.Discard(4)

	dst = appendHeader(dst, size)
	at := len(dst)
	dst = slices.Grow(dst, size)[:at+size]
	if _, err = io.ReadFull(in, dst[at:]); err != nil {
		return dst, err
	}
	maskBytes(mask, dst[at:])
	return dst, nil
}

// appendHeader appends the header of a server's text frame.
func appendHeader(dst []byte, size int) []byte {
	if size < 126 {
		return append(dst, 0x81, byte(size))
	}
	return binary.BigEndian.AppendUint16(append(dst, 0x81, 126), uint16(size))
}

// maskBytes masks or unmasks b.
func maskBytes(mask [4]byte, b []byte) {
	m := binary.LittleEndian.Uint32(mask[:])
	wide := uint64(m)<<32 | uint64(m)
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= mask[i&3]
	}
}
