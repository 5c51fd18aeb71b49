package wsconn

// gapBytes is what a gap counts for in a queue's bytes, as its frame is made only
// when it is written: about the size of a JSON gap event.
const gapBytes = 128

// smallRing is the ring that an empty queue may keep; a larger one is let go.
const smallRing = 16

// An item is what waits in a queue: a frame, or the place of frames that were dropped.
type item struct {
	frame *Frame // nil: a gap
	gap   *gap
	keep  bool // no policy may drop the frame
}

func (it *item) bytes() int {
	if it.gap != nil {
		return gapBytes
	}
	return len(it.frame.Bytes)
}

// A gap is a run of dropped messages of one stream: all after `after`, up to and with `last`.
type gap struct {
	stream      any
	after, last uint64
	missed      int
}

// A load is a number of frames and their bytes.
type load struct{ frames, bytes int }

func (l load) plus(m load) load  { return load{l.frames + m.frames, l.bytes + m.bytes} }
func (l load) minus(m load) load { return load{l.frames - m.frames, l.bytes - m.bytes} }

// A queue is a ring of what waits for the socket. The zero value is empty.
type queue struct {
	n     int    // items, gaps among them
	ring  []item // its length is a power of two
	head  int
	gaps  int
	bytes int
	kept  load // those of the items that no policy may drop
}

func (q *queue) all() load { return load{q.n, q.bytes} }

// sent is what came by Send, gaps included.
func (q *queue) sent() load { return q.all().minus(q.kept) }

// count counts an item that came in.
func (q *queue) count(it item) {
	q.n++
	q.bytes += it.bytes()
	if it.keep {
		q.kept = q.kept.plus(load{1, it.bytes()})
	}
}

func (q *queue) at(i int) *item { return &q.ring[(q.head+i)&(len(q.ring)-1)] }

func (q *queue) grow() {
	if q.n < len(q.ring) {
		return
	}
	ring := make([]item, max(4, 2*len(q.ring)))
	for i := range q.n {
		ring[i] = *q.at(i)
	}
	q.ring, q.head = ring, 0
}

func (q *queue) push(it item) {
	q.grow()
	q.count(it)
	*q.at(q.n - 1) = it
}

func (q *queue) pushFront(it item) {
	q.grow()
	q.head = (q.head - 1) & (len(q.ring) - 1)
	q.count(it)
	*q.at(0) = it
}

// pop takes the first item of a queue that is not empty.
func (q *queue) pop() item {
	it := *q.at(0)
	*q.at(0) = item{}
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.n--
	q.bytes -= it.bytes()
	if it.keep {
		q.kept = q.kept.minus(load{1, it.bytes()})
	}
	if it.gap != nil {
		q.gaps--
	}
	if q.n == 0 && len(q.ring) > smallRing {
		q.ring, q.head = nil, 0
	}
	return it
}

// remove takes item i, which may be dropped, out and keeps the order of the others.
func (q *queue) remove(i int) {
	q.bytes -= q.at(i).bytes()
	for ; i > 0; i-- {
		*q.at(i) = *q.at(i - 1)
	}
	*q.at(0) = item{}
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.n--
}

// drop drops the oldest frame of a stream that may be dropped, and says whether
// there was one. Where tell is set, a gap takes the frame's place, or the gap that
// ends where the frame begins grows by it.
func (q *queue) drop(stream any, tell bool) bool {
	var last *gap // the stream's last thing before item i, where that is a gap
	for i := range q.n {
		it := q.at(i)
		switch {
		case it.gap != nil:
			if it.gap.stream == stream {
				last = it.gap
			}
			continue
		case it.frame.Stream != stream:
			continue
		case it.keep:
			last = nil
			continue
		}
		f := it.frame
		switch {
		case !tell || f.Seq == 0:
			q.remove(i)
		case last != nil && last.last == f.Prev:
			last.last = f.Seq
			last.missed++
			q.remove(i)
		default:
			q.bytes += gapBytes - len(f.Bytes)
			q.gaps++
			*it = item{gap: &gap{stream: stream, after: f.Prev, last: f.Seq, missed: 1}}
		}
		return true
	}
	return false
}

// clear lets everything go.
func (q *queue) clear() { *q = queue{} }
