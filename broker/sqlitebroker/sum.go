package sqlitebroker

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/chathub-go/hub/broker"
)

// sum64 is the first 64 bits of a SHA-256 over the file's id, numbers, and strings with their lengths; never 0.
func sum64(id []byte, numbers []int64, strings ...[]byte) uint64 {
	var buf [512]byte
	b := append(buf[:0], id...)
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	for _, s := range strings {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	sum := sha256.Sum256(b)
	return max(1, binary.BigEndian.Uint64(sum[:]))
}

// tag is the tag of a message's cursor: a checksum of its row (but for at, which a
// clock that went back changes), by which a reader notices damage too. Two
// messages at one place of a history differ in their time at least.
func (b *Broker) tag(m *broker.Message, p position) uint64 {
	return sum64(b.id, []int64{p.seq, p.total, m.Time.UnixNano(), int64(m.Kind)},
		[]byte(m.Room), []byte(m.ID), []byte(m.From.Client), []byte(m.From.User), []byte(m.From.Name), []byte(m.Key), m.Data)
}

// edgeSum is the checksum of a room's row.
func (b *Broker) edgeSum(id int64, room string, edge position) int64 {
	return int64(sum64(b.id, []int64{id, edge.seq, int64(edge.tag), edge.total}, []byte(room)))
}

// damaged is the error for what is not as it was written.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// The columns of a message, as scanMessage takes them.
const columns = "seq, tag, at, total, time, kind, id, client, user, name, key, data"

// scanMessage reads a message of a room and makes sure that it is as it was written.
func (b *Broker) scanMessage(row interface{ Scan(...any) error }, room, epoch string) (*broker.Message, position, error) {
	m := &broker.Message{Room: room}
	var p position
	var tag, time, kind int64
	var id, client, user, name, key []byte
	if err := row.Scan(&p.seq, &tag, &p.at, &p.total, &time, &kind, &id, &client, &user, &name, &key, &m.Data); err != nil {
		return nil, p, err
	}
	p.tag = uint64(tag)
	m.ID, m.Key, m.Kind = string(id), string(key), broker.Kind(kind)
	m.From = broker.Member{Client: string(client), User: string(user), Name: string(name)}
	m.Time = fromNano(time)
	m.Cursor = broker.Cursor{Epoch: epoch, Seq: uint64(p.seq), Tag: p.tag}
	m.Prev = uint64(p.seq) - 1
	if p.seq < 1 || int64(m.Kind) != kind || b.tag(m, p) != p.tag {
		return nil, p, damaged("message %d", p.seq)
	}
	return m, p, nil
}

// scanRoom reads a room's row and makes sure that it is as it was written.
func (b *Broker) scanRoom(row interface{ Scan(...any) error }, room string) (id int64, edge position, err error) {
	var tag, sum int64
	if err := row.Scan(&id, &edge.seq, &tag, &edge.total, &sum); err != nil {
		return 0, edge, err
	}
	edge.tag = uint64(tag)
	if sum != b.edgeSum(id, room, edge) {
		return 0, edge, damaged("row of the room")
	}
	return id, edge, nil
}
