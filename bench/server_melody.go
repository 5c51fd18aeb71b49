package main

import (
	"net/http"
	"sync"

	"github.com/olahol/melody"
)

// melody with one Melody for each room. Its documentation has one for all and picks the room's
// members with BroadcastFilter, which looks at every connection for every message; one for each
// room is faster. MaxMessageSize is raised from 512 bytes; the other settings are the defaults
// (buffers of 1,024 bytes, 256 messages for each session). With compression each session
// compresses for itself: its upgrader is gorilla's, and melody uses no PreparedMessage.
// HandleRequest has to stay in the handler, so net/http keeps its memory for each connection.
func melodyHandler(c serverConfig) http.Handler {
	var mu sync.Mutex
	rooms := make(map[string]*melody.Melody) // guarded by mu
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		name := r.PathValue("room")
		m, ok := rooms[name]
		if !ok {
			m = melody.New()
			m.Config.MaxMessageSize = 64 << 10
			m.Upgrader.EnableCompression = c.Deflate
			m.HandleMessage(func(_ *melody.Session, message []byte) { _ = m.Broadcast(message) })
			rooms[name] = m
		}
		mu.Unlock()
		_ = m.HandleRequest(w, r)
	})
}
