package main

import (
	"context"
	"net/http"
	"time"

	"nhooyr.io/websocket"
)

// nhooyr's own Write in a hub of the same shape as gorilla's: one select loop for each room,
// and for each client a goroutine that reads, a channel of 256 messages, and a goroutine that
// writes from it with a deadline. It can't share a frame between connections, and a
// compressed message goes out as two frames.
func nhooyrHandler(c serverConfig) http.Handler {
	rooms := new(selectRooms[[]byte])
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
		c := &nhooyrClient{conn: conn}
		c.room, c.send = rooms.join(r)
		go c.write()
		go c.read()
	})
}

type nhooyrClient struct {
	room *selectRoom[[]byte]
	conn *websocket.Conn
	send chan []byte
}

func (c *nhooyrClient) read() {
	defer func() {
		c.room.part <- c.send
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
