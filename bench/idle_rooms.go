package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/chathub-go/hub"
)

type idleRoomsConfig struct{ Rooms int }

// idleRoomsResult is for one room.
type idleRoomsResult struct {
	Empty      float64 // bytes: opened by a broadcast, which is not kept
	Kept       float64 // bytes: opened by a publish of 128 bytes, which is
	Goroutines float64
}

// measureIdleRooms opens rooms in this process, and prints what one costs in heap and stacks
// after a collection.
func measureIdleRooms(c idleRoomsConfig) error {
	var r idleRoomsResult
	message := hub.Text(string(texts(smallSize)[0]))
	var err error
	r.Empty, r.Goroutines, err = idleRoomsCost(c.Rooms, func(room *hub.Room) error {
		return room.Broadcast(context.Background(), message)
	})
	if err != nil {
		return err
	}
	r.Kept, _, err = idleRoomsCost(c.Rooms, func(room *hub.Room) error {
		_, err := room.Publish(context.Background(), message)
		return err
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// idleRoomsCost is what a room costs that was opened by use.
func idleRoomsCost(n int, use func(*hub.Room) error) (bytes, goroutines float64, err error) {
	h := hub.New(hub.WithIdle(time.Hour))
	first, err := h.Room("first") // what the hub itself starts with its first room does not count
	if err == nil {
		err = use(first)
	}
	if err != nil {
		return 0, 0, err
	}
	rooms := make([]*hub.Room, n)
	before := settled()
	for i := range rooms {
		if rooms[i], err = h.Room(fmt.Sprintf("room%d", i)); err != nil {
			return 0, 0, err
		}
		if err = use(rooms[i]); err != nil {
			return 0, 0, err
		}
	}
	after := settled()
	runtime.KeepAlive(rooms)
	bytes = (float64(after.Heap+after.Stack) - float64(before.Heap+before.Stack)) / float64(n)
	goroutines = float64(after.Goroutines-before.Goroutines) / float64(n)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return bytes, goroutines, h.Shutdown(ctx)
}

func settled() stats {
	runtime.GC()
	runtime.GC() // what the first one's finalizers and pools let go
	return readStats()
}
