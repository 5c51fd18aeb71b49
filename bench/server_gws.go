package main

import (
	"net/http"
	"slices"
	"sync"

	"github.com/lxzan/gws"
)

// gws with its Broadcaster, which frames (and deflates) a message once, and writes it to each
// connection on that connection's own queue. Its chat room example keeps all connections in one
// map; here each room has its own, so that a room of ten is not looked for among thousands.
//
// ParallelEnabled stays off: it would run the messages of one connection at the same time and
// lose their order. CheckUtf8Enabled stays off too, as it is by default: that is faster, and
// what the hub and gorilla do not leave out.
func gwsHandler(c serverConfig) http.Handler {
	rooms := &gwsRooms{rooms: make(map[string]*gwsRoom)}
	upgrader := gws.NewUpgrader(rooms, &gws.ServerOption{
		ReadBufferSize:     1024,
		ReadMaxPayloadSize: 64 << 10,
		PermessageDeflate:  gws.PermessageDeflate{Enabled: c.Deflate, Threshold: deflateThreshold},
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		socket, err := upgrader.Upgrade(w, r)
		if err != nil {
			return
		}
		room := rooms.get(r.PathValue("room"))
		socket.Session().Store("room", room)
		room.join(socket)
		go socket.ReadLoop() // the handler returns, and net/http frees what it held
	})
}

type gwsRooms struct {
	gws.BuiltinEventHandler
	mu    sync.Mutex
	rooms map[string]*gwsRoom // guarded by mu
}

func (h *gwsRooms) get(name string) *gwsRoom {
	h.mu.Lock()
	defer h.mu.Unlock()
	room, ok := h.rooms[name]
	if !ok {
		room = new(gwsRoom)
		h.rooms[name] = room
	}
	return room
}

func (h *gwsRooms) OnClose(socket *gws.Conn, _ error) { gwsRoomOf(socket).leave(socket) }

func (h *gwsRooms) OnPing(socket *gws.Conn, payload []byte) { _ = socket.WritePong(payload) }

func (h *gwsRooms) OnMessage(socket *gws.Conn, message *gws.Message) {
	defer message.Close()
	// The payload is pooled and the broadcast outlives this call.
	gwsRoomOf(socket).broadcast(slices.Clone(message.Bytes()))
}

func gwsRoomOf(socket *gws.Conn) *gwsRoom {
	v, _ := socket.Session().Load("room")
	return v.(*gwsRoom)
}

type gwsRoom struct {
	mu      sync.RWMutex
	members []*gws.Conn // guarded by mu
}

func (r *gwsRoom) join(socket *gws.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members = append(r.members, socket)
}

func (r *gwsRoom) leave(socket *gws.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.members, socket); i >= 0 {
		r.members = slices.Delete(r.members, i, i+1)
	}
}

func (r *gwsRoom) broadcast(message []byte) {
	b := gws.NewBroadcaster(gws.OpcodeText, message)
	defer b.Close()
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, socket := range r.members {
		_ = b.Broadcast(socket)
	}
}
