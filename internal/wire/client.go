package wire

import (
	"encoding/json"
	"time"

	"github.com/chathub-go/hub/broker"
)

// What a client reads. The other events are read into the structs that they are written
// from.

// A Type tells which event a frame is.
type Type struct {
	Type string `json:"type"`
}

// A Payload is the data of a message: the one that is not nil.
type Payload struct {
	Data       json.RawMessage `json:"data,omitempty"`
	DataBase64 []byte          `json:"data_base64,omitempty"`
}

func (p *Payload) decode() (broker.Kind, []byte, error) {
	if p.DataBase64 != nil {
		return broker.KindBinary, p.DataBase64, nil
	}
	return DecodeData(p.Data)
}

// A Message is a message event, as a client reads it.
type Message struct {
	Room   string        `json:"room"`
	Seq    uint64        `json:"seq"`
	Prev   uint64        `json:"prev"`
	Cursor string        `json:"cursor"`
	ID     string        `json:"id,omitempty"`
	From   broker.Member `json:"from"`
	Key    string        `json:"key,omitempty"`
	Time   time.Time     `json:"time"`
	Payload
}

// Decode returns the message that the event was written from.
func (m *Message) Decode() (*broker.Message, error) {
	cursor, err := broker.ParseCursor(m.Cursor)
	if err != nil {
		return nil, err
	}
	kind, data, err := m.decode()
	if err != nil {
		return nil, err
	}
	return &broker.Message{
		Room: m.Room, ID: m.ID, From: m.From, Kind: kind, Data: data, Key: m.Key,
		Time: m.Time, Cursor: cursor, Prev: m.Prev,
	}, nil
}

// A Signal is a direct or a signal event, as a client reads it.
type Signal struct {
	Room string        `json:"room,omitempty"`
	ID   string        `json:"id,omitempty"`
	From broker.Member `json:"from,omitzero"`
	To   broker.Target `json:"to,omitzero"` // of direct
	Key  string        `json:"key,omitempty"`
	Time time.Time     `json:"time,omitzero"`
	Payload
}

// Decode returns the signal that the event was written from.
func (s *Signal) Decode() (*broker.Signal, error) {
	kind, data, err := s.decode()
	if err != nil {
		return nil, err
	}
	return &broker.Signal{
		Room: s.Room, To: s.To, ID: s.ID, From: s.From, Kind: kind, Data: data, Key: s.Key, Time: s.Time,
	}, nil
}

// UnmarshalJSON reads an error event.
func (e *Error) UnmarshalJSON(p []byte) error {
	type event Error
	v := struct {
		*event
		RetryAfterMS int64 `json:"retry_after_ms"`
	}{event: (*event)(e)}
	err := json.Unmarshal(p, &v)
	e.RetryAfter = time.Duration(v.RetryAfterMS) * time.Millisecond
	return err
}

// UnmarshalJSON reads a gap event: without missed, Missed is -1.
func (g *Gap) UnmarshalJSON(p []byte) error {
	type event Gap
	g.Missed = -1
	return json.Unmarshal(p, (*event)(g))
}

// UnmarshalJSON reads a history event.
func (h *History) UnmarshalJSON(p []byte) error {
	type event History
	v := struct {
		*event
		Messages []Message `json:"messages"`
	}{event: (*event)(h)}
	if err := json.Unmarshal(p, &v); err != nil {
		return err
	}
	h.Messages = nil
	for i := range v.Messages {
		m, err := v.Messages[i].Decode()
		if err != nil {
			return err
		}
		h.Messages = append(h.Messages, m)
	}
	return nil
}
