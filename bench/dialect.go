package main

import (
	"bytes"
	"strconv"
)

// A dialect is what the load speaks to a kind of server.
type dialect int

const (
	plainText   dialect = iota // a text frame is a message
	hubJSON                    // docs/protocol.md
	centrifugal                // centrifuge's JSON protocol, as its clients speak it
)

// subprotocol is what the handshake offers.
func (d dialect) subprotocol() string {
	switch d {
	case hubJSON:
		return "hub.v1.json"
	case centrifugal:
		return "centrifuge-json"
	}
	return ""
}

// greeting is what a client sends first, nil where it sends nothing.
func (d dialect) greeting(room string) []byte {
	if d != centrifugal {
		return nil
	}
	return []byte(`{"id":1,"connect":{}}` + "\n" + `{"id":2,"subscribe":{"channel":"` + room + `"}}`)
}

// publish appends the text frame's payload that publishes message.
func (d dialect) publish(dst []byte, room string, id uint32, message []byte) []byte {
	switch d {
	case hubJSON:
		dst = append(dst, `{"type":"publish","id":"`...)
		dst = strconv.AppendUint(dst, uint64(id), 10)
		dst = append(dst, `","data":`...)
		dst = append(dst, message...)
		return append(dst, '}')
	case centrifugal:
		dst = append(dst, `{"id":`...)
		dst = strconv.AppendUint(dst, uint64(id)+3, 10)
		dst = append(dst, `,"publish":{"channel":"`...)
		dst = append(dst, room...)
		dst = append(dst, `","data":`...)
		dst = append(dst, message...)
		return append(dst, `}}`...)
	}
	return append(dst, message...)
}

var (
	dataMark  = []byte(`"data":` + messageHead)
	errorMark = []byte(`"error"`)
	emptyLine = []byte(`{}`)
)

// next finds the next message of ours in a text frame's payload; rest is what is after its
// number. bad says that the server refused something.
func (d dialect) next(payload []byte) (n uint32, ok bool, rest []byte, bad bool) {
	if d == plainText {
		if n, ok = number(payload); ok {
			rest = payload[numberAt+numberSize:]
		}
		return n, ok, rest, false
	}
	at := bytes.Index(payload, dataMark)
	if at < 0 {
		return 0, false, nil, bytes.Contains(payload, errorMark)
	}
	at += len(`"data":`)
	n, ok = number(payload[at:])
	return n, ok, payload[at+numberAt+numberSize:], false
}

// answer is what a client has to send back for a payload without a message of ours, nil for
// nothing: centrifuge pings with an empty object.
func (d dialect) answer(payload []byte) []byte {
	if d == centrifugal && bytes.Equal(payload, emptyLine) {
		return emptyLine
	}
	return nil
}
