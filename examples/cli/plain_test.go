package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// A plainServer is a chat server as a talk may show one: it knows WebSocket and nothing
// of subprotocols. It sends everyone (the sender too) "name: text" for what a client
// says, and answers a close frame.
type plainServer struct {
	refuse bool // those who offer a subprotocol
	limit  int  // bytes of a message; more closes with 1009; 0: none
	joined chan struct{}

	mu    sync.Mutex // guards conns, and keeps a frame in one piece
	conns map[net.Conn]bool
}

func (s *plainServer) start(t *testing.T) (addr string) {
	s.conns = make(map[net.Conn]bool)
	s.joined = make(chan struct{}, 100)
	srv := httptest.NewServer(s)
	t.Cleanup(func() { s.cut(); srv.Close() })
	return srv.Listener.Addr().String()
}

// cut ends all connections with no close frame.
func (s *plainServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		conn.Close()
	}
}

func (s *plainServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.refuse && r.Header.Get("Sec-WebSocket-Protocol") != "" {
		http.Error(w, "what is a subprotocol?", http.StatusBadRequest)
		return
	}
	name := r.URL.Query().Get("name")
	if name == "" || r.URL.Path != "/room" {
		http.Error(w, "a name, please", http.StatusBadRequest)
		return
	}
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n")
	s.mu.Lock()
	s.conns[conn] = true
	s.mu.Unlock()
	s.joined <- struct{}{}
	s.serve(conn, rw.Reader, name)
	s.mu.Lock()
	delete(s.conns, conn)
	s.mu.Unlock()
	conn.Close()
}

func (s *plainServer) serve(conn net.Conn, in *bufio.Reader, name string) {
	for {
		op, p, err := readFrame(in)
		if err != nil {
			return
		}
		s.mu.Lock()
		switch {
		case op == 8:
			conn.Write(appendFrame(nil, 8, p))
		case op == 1 && s.limit > 0 && len(p) > s.limit:
			conn.Write(appendFrame(nil, 8, append([]byte{1009 >> 8, 1009 & 0xff}, "too long"...)))
			op = 8
		case op == 1:
			for other := range s.conns {
				other.Write(appendFrame(nil, 1, []byte(name+": "+string(p))))
			}
		}
		s.mu.Unlock()
		if op == 8 {
			return
		}
	}
}

// readFrame reads a client's frame (RFC 6455 section 5.2), which is never a fragment here.
func readFrame(in *bufio.Reader) (op byte, p []byte, err error) {
	var head [2]byte
	if _, err = io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1] & 0x7f)
	if n >= 126 {
		ext := make([]byte, 2)
		if n == 127 {
			ext = make([]byte, 8)
		}
		if _, err = io.ReadFull(in, ext); err != nil {
			return 0, nil, err
		}
		n = 0
		for _, b := range ext {
			n = n<<8 | uint64(b)
		}
	}
	p = make([]byte, 4+n)
	if _, err = io.ReadFull(in, p); err != nil {
		return 0, nil, err
	}
	for i := range p[4:] {
		p[4+i] ^= p[i%4]
	}
	return head[0] & 0x0f, p[4:], nil
}

func appendFrame(dst []byte, op byte, p []byte) []byte {
	dst = append(dst, 0x80|op)
	if len(p) < 126 {
		dst = append(dst, byte(len(p)))
	} else {
		dst = binary.BigEndian.AppendUint16(append(dst, 126), uint16(len(p)))
	}
	return append(dst, p...)
}
