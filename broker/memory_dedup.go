package broker

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// A dedup remembers the IDs of messages for a window. It belongs to the broker, not to a
// room: a key outlives its message, and also the room's falling out of the broker.
//
// Keys and payloads are kept as the first 128 bits of a SHA-256: nobody finds two that
// collide, and a record has a fixed size and no pointer for the collector to follow.
type dedup struct {
	window time.Duration
	salt   [16]byte
	shards []dedupShard
}

type digest [16]byte

// A dedupKey is a message's key and payload, hashed.
type dedupKey struct {
	key, payload digest
}

type dedupRecord struct {
	dedupKey
	epoch    [epochLen]byte
	seq, tag uint64
	time     int64         // when it was kept: nanoseconds since 1970
	at       time.Duration // the same by the broker's own clock
}

const (
	dedupShards = 16
	dedupChunk  = 128 // records; about 11 KiB
	dedupForget = 32  // records that one add forgets at most, so that none takes long
)

// A dedupShard is a queue of records in chunks, oldest first, and an index into it.
type dedupShard struct {
	mu     sync.Mutex // guards what follows
	limit  uint64
	index  map[digest]uint64 // key to the number of its record
	chunks deque[*[dedupChunk]dedupRecord]
	first  uint64 // number of the oldest record
	next   uint64 // number of the next record
}

func newDedup(window time.Duration, keys int) *dedup {
	// Few keys in one shard, so that the oldest of all goes first; with many it goes nearly first.
	n := 1
	if keys >= dedupShards<<10 {
		n = dedupShards
	}
	d := &dedup{window: window, shards: make([]dedupShard, n)}
	_, _ = rand.Read(d.salt[:]) // never fails
	for i := range d.shards {
		d.shards[i].limit = uint64(keys / n)
	}
	return d
}

// key hashes what makes m the same message as another.
func (d *dedup) key(m *Message) dedupKey {
	var buf [256]byte
	b := append(buf[:0], d.salt[:]...)
	for _, s := range [...]string{m.Room, m.From.User, m.ID} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	key, payload := sha256.Sum256(b), sha256.Sum256(m.Data)
	if m.Key != "" {
		b = append(append(buf[:0], payload[:]...), m.Key...)
		payload = sha256.Sum256(b)
	}
	k := dedupKey{key: digest(key[:16]), payload: digest(payload[:16])}
	k.payload[0] ^= byte(m.Kind)
	return k
}

func (d *dedup) shard(k digest) *dedupShard {
	return &d.shards[int(k[0])%len(d.shards)]
}

// find returns the record of k's key, if it is within the window.
func (d *dedup) find(k dedupKey, now time.Duration) (rec dedupRecord, ok bool) {
	s := d.shard(k.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.index[k.key]
	if !ok {
		return rec, false
	}
	rec = *s.record(n)
	return rec, now-rec.at < d.window
}

// add remembers rec, whose key has no record within the window.
func (d *dedup) add(rec dedupRecord) {
	s := d.shard(rec.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	for range dedupForget {
		n := s.next - s.first
		if n == 0 || n < s.limit && rec.at-s.record(s.first).at < d.window {
			break
		}
		s.forget()
	}
	if s.index == nil {
		s.index = make(map[digest]uint64)
	}
	if s.next%dedupChunk == 0 {
		s.chunks.push(new([dedupChunk]dedupRecord))
	}
	*s.record(s.next) = rec
	s.index[rec.key] = s.next
	s.next++
}

func (s *dedupShard) record(n uint64) *dedupRecord {
	return &(*s.chunks.at(int(n/dedupChunk - s.first/dedupChunk)))[n%dedupChunk]
}

// forget drops the oldest record.
func (s *dedupShard) forget() {
	key := s.record(s.first).key
	if s.index[key] == s.first {
		delete(s.index, key)
	}
	if s.first++; s.first%dedupChunk == 0 {
		s.chunks.pop()
	}
	if s.first == s.next {
		s.index = nil // a map never shrinks
	}
}

func (d *dedup) clear() {
	for i := range d.shards {
		s := &d.shards[i]
		s.mu.Lock()
		s.index, s.chunks, s.first, s.next = nil, deque[*[dedupChunk]dedupRecord]{}, 0, 0
		s.mu.Unlock()
	}
}

// repeat is the outcome of a publish of k, which has the key of rec.
func (rec *dedupRecord) repeat(k dedupKey) (Receipt, error) {
	if rec.payload != k.payload {
		return Receipt{}, ErrIDReused
	}
	return Receipt{
		Cursor:    Cursor{Epoch: string(rec.epoch[:]), Seq: rec.seq, Tag: rec.tag},
		Time:      time.Unix(0, rec.time).UTC(),
		Duplicate: true,
	}, nil
}
