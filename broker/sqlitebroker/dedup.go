package sqlitebroker

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/chathub-go/hub/broker"
)

// ids are the IDs of messages within the window: all of them in memory, so that to look for one
// reads no page, and as rows in the order in which they came, so that to keep one appends. They
// belong to the writer.
//
// Keys and payloads are the first 128 bits of a SHA-256: nobody finds two that collide.
type ids struct {
	window int64 // nanoseconds; 0: off
	limit  int
	index  map[digest]dedupRecord
	order  []idOrder // oldest first, from first on
	first  int
	next   int64 // number of the next row
	oldest int64 // number of the oldest row in the file; those before needed() are to be deleted
}

type digest [16]byte

// A dedupKey is a message's key and payload, hashed.
type dedupKey struct{ key, payload digest }

type dedupRecord struct {
	payload  digest
	n        int64 // its row
	seq, tag uint64
	time, at int64 // of Message.Time; by the broker's clock
}

// An idOrder is what to forget when.
type idOrder struct {
	key   digest
	n, at int64
}

// newDedupKey hashes what makes m the same message as another.
func newDedupKey(salt []byte, m *broker.Message) dedupKey {
	var buf [256]byte
	b := append(buf[:0], salt...)
	for _, s := range [...]string{m.Room, m.From.User, m.ID} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	key, payload := sha256.Sum256(b), sha256.Sum256(m.Data)
	b = append(append(buf[:0], payload[:]...), byte(m.Kind))
	payload = sha256.Sum256(append(b, m.Key...))
	return dedupKey{digest(key[:16]), digest(payload[:16])}
}

// find returns the record of a key that is within the window.
func (d *ids) find(key digest, now int64) (rec dedupRecord, ok bool) {
	rec, ok = d.index[key]
	return rec, ok && now-rec.at < d.window
}

// add remembers rec, whose row is in the file.
func (d *ids) add(key digest, rec dedupRecord) {
	d.expire(rec.at, 32)
	if d.index == nil {
		d.index = make(map[digest]dedupRecord)
	}
	d.index[key] = rec
	d.order = append(d.order, idOrder{key, rec.n, rec.at})
}

// expire forgets up to most of those that are past the window or the limit.
func (d *ids) expire(now int64, most int) {
	for range most {
		n := len(d.order) - d.first
		if n == 0 || n < d.limit && now-d.order[d.first].at < d.window {
			break
		}
		o := d.order[d.first]
		if d.index[o.key].n == o.n {
			delete(d.index, o.key)
		}
		d.first++
	}
	if d.first == len(d.order) {
		d.index, d.order, d.first = nil, nil, 0 // a map never shrinks
	} else if d.first >= 1024 && d.first > len(d.order)/2 {
		d.order = append(make([]idOrder, 0, len(d.order)), d.order[d.first:]...)
		d.first = 0
	}
}

// needed is the number of the oldest row that is needed.
func (d *ids) needed() int64 {
	if d.first == len(d.order) {
		return d.next
	}
	return d.order[d.first].n
}

// repeat is the outcome of a publish of k, which has the key of rec.
func (rec *dedupRecord) repeat(k dedupKey, epoch string) (broker.Receipt, error) {
	if rec.payload != k.payload {
		return broker.Receipt{}, broker.ErrIDReused
	}
	return broker.Receipt{
		Cursor:    broker.Cursor{Epoch: epoch, Seq: rec.seq, Tag: rec.tag},
		Time:      time.Unix(0, rec.time).UTC(),
		Duplicate: true,
	}, nil
}
