package wsconn

// gapBytes is what a gap counts for in a queue's bytes, as its frame is made only
// when it is written: about the size of a JSON gap event.
const gapBytes = 128

// smallQueue is how many nodes an empty queue may keep; more are let go.
const smallQueue = 8

// An item is what waits in a queue: a frame, or the place of frames that were dropped.
type item struct {
	frame *Frame // nil: a gap
	gap   *gap
	keep  bool   // no policy may drop the frame
	slow  Policy // by which it was sent
	keyed bool   // it is in the queue's keys
}

func (it *item) bytes() int {
	if it.gap != nil {
		return gapBytes
	}
	return len(it.frame.Bytes)
}

// stream is that of an item which may be dropped, or stands for such; nil for others.
func (it *item) stream() any {
	switch {
	case it.gap != nil:
		return it.gap.stream
	case it.keep || it.slow == Disconnect:
		return nil
	}
	return it.frame.Stream
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

// A queue is what waits for the socket: a list, in which those items of a stream that may
// be dropped are a list of their own, so that each item is found, dropped and merged with
// its neighbours without a look at the others. The zero value is empty.
//
// Lists are rings of nodes, linked by their index in nodes. That of the queue begins and
// ends at node 0, that of a stream at a node that has no item.
type queue struct {
	n     int  // items, gaps among them
	tell  bool // a gap takes the place of messages that are dropped
	tally tally

	nodes   []node
	unused  int32 // a list by next; 0: none
	streams []stream
	keys    map[key]int32 // the waiting frames that a newer one of their key replaces; nil: none

	gaps  int
	bytes int
	kept  load // those of the items that no policy may drop
}

type node struct {
	item
	prev, next   int32 // in the queue; prev of a stream's end is its index in streams
	older, newer int32 // of the same stream; 0: it is in no such list
}

type stream struct {
	name any
	end  int32
}

// A key names what a newer frame replaces; without a stream it is the connection's own.
type key struct {
	stream any
	key    string
}

func (q *queue) all() load { return load{q.n, q.bytes} }

// sent is what came by Send, gaps included.
func (q *queue) sent() load { return q.all().minus(q.kept) }

// node returns an unused one.
func (q *queue) node() int32 {
	if len(q.nodes) == 0 {
		q.nodes = make([]node, 1, smallQueue) // the queue's end
	}
	if i := q.unused; i != 0 {
		q.unused = q.nodes[i].next
		return i
	}
	q.nodes = append(q.nodes, node{})
	return int32(len(q.nodes) - 1)
}

func (q *queue) free(i int32) {
	q.nodes[i] = node{next: q.unused}
	q.unused = i
}

// insert puts an item before node at, which is 0 for the queue's end.
func (q *queue) insert(it item, at int32) int32 {
	i := q.node()
	q.nodes[i] = node{item: it, prev: q.nodes[at].prev, next: at}
	q.nodes[q.nodes[i].prev].next = i
	q.nodes[at].prev = i
	q.tally.hold(it)
	q.n++
	q.bytes += it.bytes()
	if it.keep {
		q.kept = q.kept.plus(load{1, it.bytes()})
	}
	return i
}

func (q *queue) push(it item) {
	i := q.insert(it, 0)
	if s := it.stream(); s != nil {
		q.link(i, q.end(s))
	}
	if it.replaceable() {
		q.replace(it.frame)
		q.index(i)
	}
}

// pushFront is for what was sent before all that waits.
func (q *queue) pushFront(it item) {
	i := q.insert(it, q.first())
	if s := it.stream(); s != nil {
		end := q.end(s)
		q.link(i, q.nodes[end].newer)
	}
	if !it.replaceable() {
		return
	}
	if _, newer := q.keys[it.frame.key()]; newer {
		q.drop(i)
	} else {
		q.index(i)
	}
}

func (q *queue) first() int32 {
	if q.n == 0 {
		return 0
	}
	return q.nodes[0].next
}

// each yields what waits, in order.
func (q *queue) each(yield func(item) bool) {
	for i := q.first(); i != 0; i = q.nodes[i].next {
		if !yield(q.nodes[i].item) {
			return
		}
	}
}

// pop takes the first item of a queue that is not empty. The tally still has it.
func (q *queue) pop() item { return q.remove(q.nodes[0].next) }

// discard lets an item go.
func (q *queue) discard(i int32) { q.tally.letGo(q.remove(i)) }

// remove takes an item out of the queue.
func (q *queue) remove(i int32) item {
	nd := &q.nodes[i]
	it := nd.item
	q.nodes[nd.prev].next, q.nodes[nd.next].prev = nd.next, nd.prev
	q.unlink(i)
	q.unindex(i)
	q.n--
	q.bytes -= it.bytes()
	if it.keep {
		q.kept = q.kept.minus(load{1, it.bytes()})
	}
	if it.gap != nil {
		q.gaps--
	}
	q.free(i)
	if q.n == 0 {
		q.reset()
	}
	return it
}

// reset is for a queue that has become empty.
func (q *queue) reset() {
	q.keys, q.unused = nil, 0
	if cap(q.nodes) > smallQueue {
		q.nodes = nil
	} else {
		clear(q.nodes)
		q.nodes = q.nodes[:0]
	}
	if cap(q.streams) > smallQueue {
		q.streams = nil
	}
}

// clear lets everything go.
func (q *queue) clear() {
	for it := range q.each {
		q.tally.letGo(it)
	}
	*q = queue{tell: q.tell, tally: q.tally}
}

// end returns the end of a stream's list, which is made where there is none.
func (q *queue) end(name any) int32 {
	for _, s := range q.streams { // the rooms of one client that it is slow in: few
		if s.name == name {
			return s.end
		}
	}
	i := q.node()
	q.nodes[i] = node{prev: int32(len(q.streams)), older: i, newer: i}
	q.streams = append(q.streams, stream{name, i})
	return i
}

// link puts node i into a stream's list, before node at.
func (q *queue) link(i, at int32) {
	nd := &q.nodes[i]
	nd.older, nd.newer = q.nodes[at].older, at
	q.nodes[nd.older].newer = i
	q.nodes[at].older = i
}

// unlink takes node i out of its stream's list, which ends with its last item.
func (q *queue) unlink(i int32) {
	older, newer := q.nodes[i].older, q.nodes[i].newer
	if newer == 0 {
		return
	}
	q.nodes[i].older, q.nodes[i].newer = 0, 0
	if older != newer || !q.nodes[older].isEnd() {
		q.nodes[older].newer, q.nodes[newer].older = newer, older
		return
	}
	at, last := q.nodes[older].prev, len(q.streams)-1
	q.streams[at] = q.streams[last]
	q.nodes[q.streams[at].end].prev = at
	q.streams[last] = stream{}
	q.streams = q.streams[:last]
	q.free(older)
}

func (nd *node) isEnd() bool { return nd.frame == nil && nd.gap == nil }

// dropOldest drops the oldest frame of a stream that may be dropped, and says whether
// there was one.
func (q *queue) dropOldest(name any) bool {
	for _, s := range q.streams {
		if s.name != name {
			continue
		}
		for i := q.nodes[s.end].newer; i != s.end; i = q.nodes[i].newer {
			if q.nodes[i].frame != nil {
				q.drop(i)
				return true
			}
		}
	}
	return false
}

// drop drops the frame of node i. Where that is a message, a gap takes its place; gaps
// between which nothing is left become one, where the first of them stood.
func (q *queue) drop(i int32) {
	nd := &q.nodes[i]
	f, older := nd.frame, nd.older
	if !q.tell || f.Seq == 0 || f.Stream == nil {
		last := q.n == 1
		q.discard(i)
		if !last {
			q.merge(older)
		}
		return
	}
	q.unindex(i)
	q.bytes += gapBytes - len(f.Bytes)
	q.gaps++
	was := nd.item
	nd.frame, nd.gap = nil, &gap{stream: f.Stream, after: f.Prev, last: f.Seq, missed: 1}
	q.tally.hold(nd.item)
	q.tally.letGo(was)
	if q.merge(older) {
		i = older
	}
	q.merge(i)
}

// merge makes one gap of the gap in node i, if that is one, and the next one of its stream,
// if that goes on where it ends.
func (q *queue) merge(i int32) bool {
	g := q.nodes[i].gap
	if g == nil {
		return false
	}
	j := q.nodes[i].newer
	next := q.nodes[j].gap
	if next == nil || next.after != g.last {
		return false
	}
	g.last = next.last
	g.missed += next.missed
	q.discard(j)
	return true
}

// replaceable tells whether a newer frame of its key replaces the item.
func (it *item) replaceable() bool {
	return it.slow == LatestPerKey && !it.keep && it.frame.Key != ""
}

func (f *Frame) key() key { return key{f.Stream, f.Key} }

// waiting returns the frame that one of its key would replace; nil where there is none.
func (q *queue) waiting(f *Frame) *Frame {
	if i, ok := q.keys[f.key()]; ok {
		return q.nodes[i].frame
	}
	return nil
}

// replace drops what waits of f's key.
func (q *queue) replace(f *Frame) {
	if i, ok := q.keys[f.key()]; ok {
		q.drop(i)
	}
}

func (q *queue) index(i int32) {
	if q.keys == nil {
		q.keys = make(map[key]int32)
	}
	q.keys[q.nodes[i].frame.key()] = i
	q.nodes[i].keyed = true
}

func (q *queue) unindex(i int32) {
	if nd := &q.nodes[i]; nd.keyed {
		delete(q.keys, nd.frame.key())
		nd.keyed = false
	}
}
