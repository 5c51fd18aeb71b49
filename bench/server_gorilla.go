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
	rooms := new(selectRooms[*websocket.PreparedMessage])
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
		c := &gorillaClient{conn: conn}
		c.room, c.send = rooms.join(r)
		go c.write()
		go c.read()
	})
}

type gorillaClient struct {
	room *selectRoom[*websocket.PreparedMessage]
	conn *websocket.Conn
	send chan *websocket.PreparedMessage
}

func (c *gorillaClient) read() {
	defer func() {
		c.room.part <- c.send
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
