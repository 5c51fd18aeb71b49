package wsconn

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestAdhocIdle(t *testing.T) {
	const n = 2000
	conns := make(chan *Conn, n)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, &Options{})
		if err != nil {
			panic(err)
		}
		go func() { c.Read(context.Background()); c.Finish() }()
		conns <- c
	}))
	mem := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := mem()
	var keep []net.Conn
	for range n {
		c, _ := net.Dial("tcp", s.Listener.Addr().String())
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		keep = append(keep, c)
		x := <-conns
		b := batch("hello")
		x.Send(b, Disconnect)
		x.Ping()
	}
	time.Sleep(time.Second)
	after := mem()
	fmt.Println("per conn", (after-before)/n, "goroutines", runtime.NumGoroutine())
	for _, c := range keep {
		c.Close()
	}
	time.Sleep(time.Second)
	s.Close()
	runtime.KeepAlive(conns)
}

func TestAdhocSlowTCP(t *testing.T) {
	c, p := tcpPair(t, &Options{WriteTimeout: 300 * time.Millisecond, QueueBytes: 1 << 30, QueueMessages: 1 << 20})
	r := startReader(t, c)
	for range 200 {
		if err := c.Send(batch(strings.Repeat("x", 100_000)), Disconnect); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 40_000)
	start := time.Now()
	n := 0
	for time.Since(start) < 15*time.Second {
		m, err := p.Conn.Read(buf)
		n += m
		if err != nil {
			fmt.Println(n, err, time.Since(start))
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	f, b := c.Queued()
	fmt.Println("read", n, "queued", f, b, time.Since(start))
	p.r = bufio.NewReader(p.Conn)
	go io.Copy(io.Discard, p.Conn)
	for b > 0 {
		_, b = c.Queued()
		time.Sleep(10*time.Millisecond)
	}
	select {
	case <-r.done:
		fmt.Println(r.err)
	default:
		fmt.Println("alive")
	}
}
