package main

import (
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// deflateThreshold is for all that have one: everything is compressed.
const deflateThreshold = 64

// gorilla/websocket as in its chat example: a hub in one select loop for each room, and for
// each client a goroutine that reads, a channel of 256 messages, and a goroutine that writes
// from it, with the example's deadlines and pings. What is added is a PreparedMessage, so that
// a message is framed (and deflated) once. The buffers are the example's 1,024 bytes, those for
// writing from a pool, so that a client at rest has none.
func gorillaHandler(c serverConfig) http.Handler {
	var mu sync.Mutex
	rooms := make(map[string]*gorillaRoom) // guarded by mu
	upgrader := websocket.Upgrader{
		ReadBufferSize:    1024,
		WriteBufferSize:   1024,
		WriteBufferPool:   new(sync.Pool),
		EnableCompression: c.Deflate,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		mu.Lock()
		name := r.PathValue("room")
		room, ok := rooms[name]
		if !ok {
			room = newGorillaRoom()
			rooms[name] = room
		}
		mu.Unlock()
		c := &gorillaClient{room: room, conn: conn, send: make(chan *websocket.PreparedMessage, 256)}
		room.register <- c
		go c.write()
		go c.read()
	})
}

type gorillaRoom struct {
	clients              map[*gorillaClient]bool // room loop only
	broadcast            chan *websocket.PreparedMessage
	register, unregister chan *gorillaClient
}

func newGorillaRoom() *gorillaRoom {
	r := &gorillaRoom{
		clients:    make(map[*gorillaClient]bool),
		broadcast:  make(chan *websocket.PreparedMessage, 64),
		register:   make(chan *gorillaClient),
		unregister: make(chan *gorillaClient),
	}
	go r.run()
	return r
}

func (r *gorillaRoom) run() {
	for {
		select {
		case c := <-r.register:
			r.clients[c] = true
		case c := <-r.unregister:
			r.drop(c)
		case m := <-r.broadcast:
			for c := range r.clients {
				select {
				case c.send <- m:
				default:
					r.drop(c)
				}
			}
		}
	}
}

func (r *gorillaRoom) drop(c *gorillaClient) {
	if r.clients[c] {
		delete(r.clients, c)
		close(c.send)
	}
}

type gorillaClient struct {
	room *gorillaRoom
	conn *websocket.Conn
	send chan *websocket.PreparedMessage
}

func (c *gorillaClient) read() {
	defer func() {
		c.room.unregister <- c
		c.conn.Close()
	}()
	c.conn.SetReadLimit(64 << 10)
	_ = c.conn.SetReadDeadline(time.Now().Add(time.Minute))
	c.conn.SetPongHandler(func(string) error { return c.conn.SetReadDeadline(time.Now().Add(time.Minute)) })
	for {
		_, data, err := c.conn.ReadMessage()
		if err != nil {
			return
		}
		m, err := websocket.NewPreparedMessage(websocket.TextMessage, data)
		if err != nil {
			return
		}
		c.room.broadcast <- m
	}
}

func (c *gorillaClient) write() {
	ticker := time.NewTicker(54 * time.Second)
	defer func() {
		ticker.Stop()
		c.conn.Close()
	}()
	for {
		select {
		case m, ok := <-c.send:
			if !ok {
				return
			}
			_ = c.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if c.conn.WritePreparedMessage(m) != nil {
				return
			}
		case <-ticker.C:
			_ = c.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if c.conn.WriteMessage(websocket.PingMessage, nil) != nil {
				return
			}
		}
	}
}
