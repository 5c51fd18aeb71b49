package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"time"

	"github.com/chathub-go/hub"
)

type idleRoomsConfig struct {
	Rooms   int
	Idle    time.Duration // the rooms that have been empty for so long are measured; 0: the open ones
	Profile string        // file for a profile of the heap with the rooms, "" for none
}

// idleRoomsResult is for one room.
type idleRoomsResult struct {
	Empty      float64 // bytes: it has had a member
	Stack      float64 // bytes: the part of Empty that is stacks
	Live       float64 // bytes: objects of Empty that live
	Kept       float64 // bytes: that member published 128 bytes, which are kept
	Away       float64 // bytes: as Empty, once it has no loop any more
	AwayKept   float64 // bytes: as Kept, once it has no loop any more
	Goroutines float64
}

// measureIdleRooms opens rooms in this process, each by a member that comes and goes, and
// prints what one costs in heap and stacks after a collection.
func measureIdleRooms(c idleRoomsConfig) error {
	r, err := idleRoomsCost(c, nil)
	if err != nil {
		return err
	}
	for _, more := range []struct {
		cost    *float64
		idle    time.Duration
		message []byte
	}{
		{&r.Kept, 0, texts(smallSize)[0]},
		{&r.Away, time.Second, nil},
		{&r.AwayKept, time.Second, texts(smallSize)[0]},
	} {
		m, err := idleRoomsCost(idleRoomsConfig{Rooms: c.Rooms, Idle: more.idle}, more.message)
		if err != nil {
			return err
		}
		*more.cost = m.Empty
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// idleRoomsCost is what a room costs that was opened by a member, who says message if there is
// one.
func idleRoomsCost(c idleRoomsConfig, message []byte) (r idleRoomsResult, err error) {
	n := c.Rooms
	left := make(chan struct{}, 1)
	h := hub.New(hub.WithIdle(cmp.Or(c.Idle, time.Hour)), hub.WithTextFormat(hub.RawText()),
		hub.WithOnLeave(func(*hub.Client, *hub.Room, error) { left <- struct{}{} }))
	mux := http.NewServeMux()
	mux.Handle("/room/{room}", h)
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return r, err
	}
	server := &http.Server{Handler: mux}
	go server.Serve(listener)
	defer server.Close()
	use := func(room string) error {
		if err := visit(listener.Addr().String(), room, message); err != nil {
			return err
		}
		select {
		case <-left:
			return nil
		case <-time.After(10 * time.Second):
			return fmt.Errorf("the member of %s does not leave", room)
		}
	}
	// What the hub and net/http start with the first connection does not count.
	const first = 10
	for i := range first {
		if err := use(fmt.Sprintf("first%d", i)); err != nil {
			return r, err
		}
	}
	open := 0
	if c.Idle == 0 {
		open = first
	}
	if err := roomsAre(h, open); err != nil {
		return r, err
	}
	before := settled()
	for i := range n {
		if err := use(fmt.Sprintf("room%d", i)); err != nil {
			return r, err
		}
	}
	if c.Idle == 0 {
		open += n
	}
	if err := roomsAre(h, open); err != nil {
		return r, err
	}
	after := settled()
	if c.Profile != "" {
		if err := profileTo(c.Profile, pprof.WriteHeapProfile); err != nil {
			return r, err
		}
	}
	each := func(before, after uint64) float64 { return (float64(after) - float64(before)) / float64(n) }
	r.Empty = each(before.Heap+before.Stack, after.Heap+after.Stack)
	r.Stack = each(before.Stack, after.Stack)
	r.Live = each(before.Live, after.Live)
	r.Goroutines = each(uint64(before.Goroutines), uint64(after.Goroutines))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return r, h.Shutdown(ctx)
}

// roomsAre waits until so many rooms are open, and nobody is there.
func roomsAre(h *hub.Hub, n int) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s := h.Stats()
		if s.Rooms == n && s.Clients == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d rooms are open and %d clients are there, want %d and 0", s.Rooms, s.Clients, n)
		}
	}
}

// visit joins a room, says message and sees it come back, or where there is none has it joined
// by what the server answers to the handshake, and closes.
func visit(address, room string, message []byte) error {
	conn, err := net.Dial("tcp4", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = fmt.Fprintf(conn, "GET /room/%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", room, address)
	if err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return errors.New(response.Status)
	}
	var mask [4]byte
	if message != nil {
		// At most 16 bits of length: see appendHeader. The client's has the mask bit too.
		frame := appendHeader(nil, len(message))
		frame[1] |= 0x80
		frame = append(append(frame, mask[:]...), message...)
		if _, err := conn.Write(frame); err != nil {
			return err
		}
		back := make([]byte, len(appendHeader(nil, len(message)))+len(message))
		if _, err := io.ReadFull(in, back); err != nil {
			return err
		}
		if !bytes.HasSuffix(back, message) {
			return fmt.Errorf("%s said %q", room, back)
		}
	}
	if _, err := conn.Write(append([]byte{0x88, 0x80}, mask[:]...)); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in) // the server's close frame, and its end
	return err
}

// settled collects what can be collected and reads the figures. Goroutines that are about to
// end have had their time: their connections are closed on both sides.
func settled() stats {
	runtime.GC()
	runtime.GC() // what the first one's finalizers and pools let go
	return readStats()
}
