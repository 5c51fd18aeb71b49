package hubclient

import (
	"context"
	"io"
	"sync"
	"unsafe"
)

// A queue holds events until the caller takes them.
type queue struct {
	maxEvents, maxBytes int
	ready               chan struct{} // has a value when there may be something
	space               chan struct{} // has a value when something was taken
	ended               <-chan struct{}
	drained             chan struct{} // has a value when all was taken after letGo

	mu    sync.Mutex // guards what follows
	list  []Event    // list[head:] waits
	head  int
	bytes int
	gone  bool // events go by that would be here
}

func newQueue(o *options, ended <-chan struct{}, drained chan struct{}) *queue {
	return &queue{
		maxEvents: o.queueEvents, maxBytes: o.queueBytes,
		ready: make(chan struct{}, 1), space: make(chan struct{}, 1), ended: ended, drained: drained,
	}
}

// push appends e if it fits.
func (q *queue) push(e *Event) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.list) - q.head
	if n >= q.maxEvents || n > 0 && q.bytes+e.size > q.maxBytes {
		return false
	}
	q.append(e)
	return true
}

// force appends e, also past the bound: two in a row that say that the connection is lost become one, and of others the caller
// bounds the number.
func (q *queue) force(e *Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.list); n > q.head && e.Type == EventDisconnected && q.list[n-1].Type == e.Type {
		q.list[n-1] = *e
		return
	}
	q.append(e)
}

func (q *queue) append(e *Event) {
	if q.head > 0 && len(q.list) == cap(q.list) {
		n := copy(q.list, q.list[q.head:])
		clear(q.list[n:])
		q.list, q.head = q.list[:n], 0
	}
	q.list = append(q.list, *e)
	q.bytes += e.size
	signal(q.ready)
}

// pop takes the oldest event.
func (q *queue) pop() (e Event, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == len(q.list) {
		return e, false
	}
	e = q.list[q.head]
	q.list[q.head] = Event{}
	q.head++
	q.bytes -= e.size
	if q.head == len(q.list) {
		q.list, q.head = q.list[:0], 0
		if cap(q.list) > 64 {
			q.list = nil
		}
		if q.gone {
			signal(q.drained)
		}
	} else {
		signal(q.ready) // for another caller
	}
	signal(q.space)
	return e, true
}

// letGo says whether events go by that would be in the queue.
func (q *queue) letGo(on bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gone = on
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.head == len(q.list)
}

// drop empties the queue.
func (q *queue) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list, q.head, q.bytes = nil, 0, 0
}

// next waits for an event. It returns io.EOF when the client has ended and all is taken.
func (q *queue) next(ctx context.Context) (Event, error) {
	for {
		if e, ok := q.pop(); ok {
			return e, nil
		}
		select {
		case <-q.ready:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		case <-q.ended:
			if e, ok := q.pop(); ok {
				return e, nil
			}
			return Event{}, io.EOF
		}
	}
}

// signal makes ch, of one place, have a value.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// measure sets what e counts for in the queue, about what it takes in memory.
func (e *Event) measure(frame int) {
	e.size = int(unsafe.Sizeof(*e)) + frame
	if e.Message != nil {
		e.size += int(unsafe.Sizeof(*e.Message))
	}
}
