package sqlitebroker

import (
	"fmt"
	"time"
)

// The bounds that Open has when no option sets another.
const (
	defaultMessages      = 256
	defaultAge           = time.Hour
	defaultRoomBytes     = 4 << 20
	defaultRooms         = 100_000
	defaultDedupWindow   = 10 * time.Minute
	defaultDedupKeys     = 1_000_000
	defaultWaitingEvents = 1024
	defaultWaitingBytes  = 4 << 20
)

// An Option sets a bound of [Open]. A value that makes no sense panics where the option is made.
type Option func(*options)

type options struct {
	retention
	roomBytes     int64
	rooms         int
	dedupWindow   time.Duration
	dedupKeys     int
	waitingEvents int
	waitingBytes  int
	check         bool

	sweepEvery time.Duration // tests change it
	maxPages   int           // of the file; 0: no bound. Tests change it
}

func defaults() options {
	return options{
		retention:     retention{defaultMessages, defaultAge},
		roomBytes:     defaultRoomBytes,
		rooms:         defaultRooms,
		dedupWindow:   defaultDedupWindow,
		dedupKeys:     defaultDedupKeys,
		waitingEvents: defaultWaitingEvents,
		waitingBytes:  defaultWaitingBytes,
		check:         true,
		sweepEvery:    time.Second,
	}
}

// A retention is what a room keeps at most.
type retention struct {
	messages int           // 0: none
	age      time.Duration // 0: no bound
}

func newRetention(messages int, age time.Duration) retention {
	if messages < 0 || age < 0 {
		panic(fmt.Sprintf("hub: sqlitebroker: retention of %d messages, %v: negative", messages, age))
	}
	return retention{messages, age}
}

func positive(what string, n int) int {
	if n < 1 {
		panic(fmt.Sprintf("hub: sqlitebroker: %s: %d, want at least 1", what, n))
	}
	return n
}

// WithRetention sets how many messages a room keeps and for how long; the default is 256
// and 1 h. With 0 messages a room keeps nothing but its position, so whoever missed a message gets
// [broker.Gap]. Age 0 sets no bound on the age. [Broker.SetRetention] sets it for one room.
func WithRetention(messages int, age time.Duration) Option {
	r := newRetention(messages, age)
	return func(o *options) { o.retention = r }
}

// WithRoomBytes bounds the bytes that a room keeps; the default is 4 MiB. A message counts
// with its data, its strings and 128 bytes for what surrounds them. One that is larger than the
// bound is [broker.ErrTooLarge].
func WithRoomBytes(n int) Option {
	n = positive("bytes of a room", n)
	return func(o *options) { o.roomBytes = int64(n) }
}

// WithRooms bounds how many rooms may have subscriptions or members at a time, and how many a retention
// of their own; the default is 100,000. A further one is [broker.ErrBusy]. How many rooms the file has is not bounded.
func WithRooms(n int) Option {
	n = positive("rooms", n)
	return func(o *options) { o.rooms = n }
}

// WithDedup sets how long the IDs of messages are remembered and how many, over all rooms; the
// default is 10 minutes and 1,000,000, which takes about 200 MB of memory when full. Past the number the
// oldest are forgotten first. A window of 0 switches dedup off.
func WithDedup(window time.Duration, keys int) Option {
	if window < 0 {
		panic(fmt.Sprintf("hub: sqlitebroker: dedup window %v: negative", window))
	}
	keys = positive("dedup keys", keys)
	return func(o *options) { o.dedupWindow, o.dedupKeys = window, keys }
}

// WithWaiting bounds what may wait for a subscription; the default is 1,024 events or 4 MiB, whichever
// comes first. While one subscription of a room has reached it, Publish and Signal wait, before
// anything is kept. The bytes may pass their bound by one message. Presence events don't wait;
// past the bound they are merged.
func WithWaiting(events, bytes int) Option {
	events, bytes = positive("waiting events", events), positive("waiting bytes", bytes)
	return func(o *options) { o.waitingEvents, o.waitingBytes = events, bytes }
}

// WithCheck says whether Open looks for damage in all of the file; the default is true. It reads the file from
// beginning to end, some 300 MB a second where the system has it in memory; without it, damage is found when what is damaged is used.
func WithCheck(check bool) Option {
	return func(o *options) { o.check = check }
}
