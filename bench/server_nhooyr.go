package main

import (
	"context"
	"net/http"
	"sync"
	"time"

	"nhooyr.io/websocket"
)

// nhooyr's own Write in a hub of the same shape as gorilla's: one select loop for each room,
// and for each client a goroutine that reads, a channel of 256 messages, and a goroutine that
// writes from it with a deadline. It can't share a frame between connections, and a
// compressed message goes out as two frames.
func nhooyrHandler(c serverConfig) http.Handler {
	var mu sync.Mutex
	rooms := make(map[string]*nhooyrRoom) // guarded by mu
	options := &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled}
	if c.Deflate {
		options.CompressionMode = websocket.CompressionNoContextTakeover
		options.CompressionThreshold = deflateThreshold
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, options)
		if err != nil {
			return
		}
		conn.SetReadLimit(64 << 10)
		mu.Lock()
		name := r.PathValue("room")
		room, ok := rooms[name]
		if !ok {
			room = newNhooyrRoom()
			rooms[name] = room
		}
		mu.Unlock()
		c := &nhooyrClient{room: room, conn: conn, send: make(chan []byte, 256)}
		room.register <- c
		go c.write()
		go c.read()
	})
}

type nhooyrRoom struct {
	clients              map[*nhooyrClient]bool // room loop only
	broadcast            chan []byte
	register, unregister chan *nhooyrClient
}

func newNhooyrRoom() *nhooyrRoom {
	r := &nhooyrRoom{
		clients:    make(map[*nhooyrClient]bool),
		broadcast:  make(chan []byte, 64),
		register:   make(chan *nhooyrClient),
		unregister: make(chan *nhooyrClient),
	}
	go r.run()
	return r
}

func (r *nhooyrRoom) run() {
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

func (r *nhooyrRoom) drop(c *nhooyrClient) {
	if r.clients[c] {
		delete(r.clients, c)
		close(c.send)
	}
}

type nhooyrClient struct {
	room *nhooyrRoom
	conn *websocket.Conn
	send chan []byte
}

func (c *nhooyrClient) read() {
	defer func() {
		c.room.unregister <- c
		_ = c.conn.CloseNow()
	}()
	for {
		_, data, err := c.conn.Read(context.Background())
		if err != nil {
			return
		}
		c.room.broadcast <- data
	}
}

func (c *nhooyrClient) write() {
	defer c.conn.CloseNow()
	for m := range c.send {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := c.conn.Write(ctx, websocket.MessageText, m)
		cancel()
		if err != nil {
			return
		}
	}
}
