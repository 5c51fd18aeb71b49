package broker

import (
	"fmt"
	"time"
)

// The bounds that [NewMemory] has when no option sets another.
const (
	defaultMessages      = 256
	defaultAge           = time.Hour
	defaultRoomBytes     = 4 << 20
	defaultTotalBytes    = 256 << 20
	defaultRooms         = 100_000
	defaultDedupWindow   = 10 * time.Minute
	defaultDedupKeys     = 1_000_000
	defaultWaitingEvents = 1024
	defaultWaitingBytes  = 4 << 20
)

// A MemoryOption sets a bound of [NewMemory]. A value that makes no sense panics there.
type MemoryOption func(*memoryOptions)

type memoryOptions struct {
	retention
	roomBytes     int
	totalBytes    int
	rooms         int
	dedupWindow   time.Duration
	dedupKeys     int
	waitingEvents int
	waitingBytes  int
}

// A retention is what a room keeps at most.
type retention struct {
	messages int           // 0: none
	age      time.Duration // 0: no bound
}

func newRetention(messages int, age time.Duration) retention {
	if messages < 0 || age < 0 {
		panic(fmt.Sprintf("hub: retention of %d messages, %v: negative", messages, age))
	}
	return retention{messages, age}
}

func positive(what string, n int) int {
	if n < 1 {
		panic(fmt.Sprintf("hub: %s: %d, want at least 1", what, n))
	}
	return n
}

// WithRetention sets how many messages a room keeps and for how long; the default is 256
// and 1 h. With 0 messages a room keeps nothing but its head, so whoever missed a message
// gets [Gap]. Age 0 sets no bound on the age. [Memory.SetRetention] sets it for one room.
func WithRetention(messages int, age time.Duration) MemoryOption {
	r := newRetention(messages, age)
	return func(o *memoryOptions) { o.retention = r }
}

// WithRoomBytes bounds the bytes that a room keeps; the default is 4 MiB. A message
// counts with its data, its strings and 256 bytes for what surrounds them. One that
// is larger than the bound is [ErrTooLarge].
func WithRoomBytes(n int) MemoryOption {
	n = positive("bytes of a room", n)
	return func(o *memoryOptions) { o.roomBytes = n }
}

// WithTotalBytes bounds the bytes that all rooms keep together, counted as
// [WithRoomBytes] counts; the default is 256 MiB. Past it the rooms that were not used
// for the longest lose their oldest messages.
func WithTotalBytes(n int) MemoryOption {
	n = positive("bytes of all rooms", n)
	return func(o *memoryOptions) { o.totalBytes = n }
}

// WithRooms bounds how many rooms are known; the default is 100,000. Past it the room that
// was not used for the longest is forgotten, among those that have neither subscription nor
// member: when it is used again, it has another epoch, and its cursors get [Reset]. Where
// all are in use, a new room is [ErrBusy]. A room without messages costs about half a KiB.
func WithRooms(n int) MemoryOption {
	n = positive("rooms", n)
	return func(o *memoryOptions) { o.rooms = n }
}

// WithDedup sets how long the IDs of messages are remembered and how many, over all
// rooms; the default is 10 minutes and 1,000,000, which takes about 150 MB when full. Past
// the number the oldest are forgotten first. A window of 0 switches dedup off.
func WithDedup(window time.Duration, keys int) MemoryOption {
	if window < 0 {
		panic(fmt.Sprintf("hub: dedup window %v: negative", window))
	}
	keys = positive("dedup keys", keys)
	return func(o *memoryOptions) { o.dedupWindow, o.dedupKeys = window, keys }
}

// WithWaiting bounds what may wait for a [Subscription]; the default is 1,024 events or
// 4 MiB, whichever comes first. While one subscription of a room has reached it, Publish and
// Signal wait. The bytes may pass their bound by one message. Presence events don't wait;
// past the bound they are merged, so that there are never more than members.
func WithWaiting(events, bytes int) MemoryOption {
	events, bytes = positive("waiting events", events), positive("waiting bytes", bytes)
	return func(o *memoryOptions) { o.waitingEvents, o.waitingBytes = events, bytes }
}
