package wire

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/chathub-go/hub/broker"
)

// The fields of commands. Each command reads those that it has; the others are
// ignored, as unknown ones are.
const (
	fieldType = iota
	fieldID
	fieldRoom
	fieldData
	fieldDataBase64
	fieldTo
	fieldKey
	fieldSince
	fieldHistory
	fieldOn
	fieldBefore
	fieldLimit
	numFields
)

var fieldNames = [numFields]string{
	"type", "id", "room", "data", "data_base64", "to", "key", "since", "history", "on", "before", "limit",
}

var commands = []string{
	CommandPublish, CommandJoin, CommandLeave, CommandTyping, CommandPresence, CommandHistory, CommandPing,
}

var errJSON = errors.New("not valid JSON in UTF-8, or nested deeper than " + strconv.Itoa(MaxDepth) + " levels")

// fields are the raw values of a command; nil where not given.
type fields [numFields][]byte

// Decode reads the command in p into c. It keeps nothing of p. Where it fails, c is not
// to be used, and the error has the command's id and room if these could be read.
// Unknown fields are ignored; names are compared exactly, and a known one that comes
// twice is an error.
func Decode(p []byte, c *Command) *Error {
	*c = Command{History: -1, Limit: HistoryLimit}
	f, twice, err := scanCommand(p)
	if err != nil {
		return &Error{Code: CodeBadJSON, Message: err.Error()}
	}

	// Id and room first, so that the error about another field can carry them.
	if err = c.decodeAddress(&f); err == nil && twice >= 0 {
		err = fmt.Errorf("%s: given twice", fieldNames[twice])
	}
	if err == nil && f[fieldType] == nil {
		err = errors.New("type: missing")
	}
	if err == nil && f[fieldType][0] != '"' {
		err = errors.New("type: must be a string")
	}
	if err == nil {
		i := indexQuoted(commands, f[fieldType])
		if i < 0 {
			msg := fmt.Sprintf("type: %.64q is not a command", unquote(f[fieldType]))
			return &Error{ID: c.ID, Room: c.Room, Code: CodeBadCommand, Message: msg}
		}
		c.Type = commands[i]
		err = c.decodeFields(&f)
	}
	if err != nil {
		return &Error{ID: c.ID, Room: c.Room, Code: CodeBadRequest, Message: err.Error()}
	}
	return nil
}

// scanCommand checks the syntax of p and finds its fields. twice is a field that came
// twice, or -1.
func scanCommand(p []byte) (f fields, twice int, err error) {
	twice = -1
	start := skipSpace(p, 0)
	if start == len(p) || p[start] != '{' {
		return f, twice, errors.New("not a JSON object")
	}
	end := skipObject(p, start, MaxDepth, func(key, value []byte) {
		i := indexQuoted(fieldNames[:], key)
		if i < 0 {
			return
		}
		if f[i] != nil {
			twice = i
		}
		f[i] = value
	})
	if end < 0 || !utf8.Valid(p) {
		return f, twice, errJSON
	}
	if skipSpace(p, end) != len(p) {
		return f, twice, errors.New("more than one JSON object")
	}
	for i, v := range f {
		if i != fieldData && string(v) == "null" {
			f[i] = nil
		}
	}
	if twice >= 0 {
		f[twice] = nil
	}
	return f, twice, nil
}

// indexQuoted is the index of the JSON string v in names, or -1.
func indexQuoted(names []string, v []byte) int {
	if bytes.IndexByte(v, '\\') >= 0 {
		return slices.Index(names, unquote(v))
	}
	v = v[1 : len(v)-1]
	for i, name := range names {
		if string(v) == name {
			return i
		}
	}
	return -1
}

func (c *Command) decodeAddress(f *fields) error {
	id, err := stringField(f, fieldID)
	if err == nil && f[fieldID] != nil {
		err = named(fieldID, ValidID(id))
	}
	if err != nil {
		return err
	}
	c.ID = id
	room, err := stringField(f, fieldRoom)
	if err == nil && f[fieldRoom] != nil {
		err = named(fieldRoom, ValidRoom(room))
	}
	if err != nil {
		return err
	}
	c.Room = room
	return nil
}

func (c *Command) decodeFields(f *fields) (err error) {
	switch c.Type {
	case CommandPublish:
		if err = c.decodeData(f); err == nil {
			c.To, err = decodeTarget(f[fieldTo])
		}
		if err == nil {
			if c.Key, err = stringField(f, fieldKey); err == nil {
				err = named(fieldKey, ValidKey(c.Key))
			}
		}
	case CommandJoin:
		err = c.decodeJoin(f)
	case CommandLeave:
		if c.Room == "" {
			err = errors.New("room: missing")
		}
	case CommandTyping:
		switch string(f[fieldOn]) {
		case "true":
			c.On = true
		case "false":
		case "":
			err = errors.New("on: missing")
		default:
			err = errors.New("on: must be true or false")
		}
	case CommandHistory:
		if v := f[fieldBefore]; v != nil {
			if c.Before, err = strconv.ParseUint(string(v), 10, 64); err != nil {
				return errors.New("before: must be a seq, an integer from 0")
			}
		}
		c.Limit, err = intField(f, fieldLimit, c.Limit, 1, MaxHistoryLimit)
	}
	return err
}

func (c *Command) decodeData(f *fields) (err error) {
	text := f[fieldDataBase64]
	switch {
	case f[fieldData] != nil && text != nil:
		return errors.New("data: given as well as data_base64")
	case f[fieldData] != nil:
		c.Kind, c.Data = decodeValue(f[fieldData])
		return nil
	case text == nil:
		return errors.New("data: missing")
	case text[0] != '"':
		return errors.New("data_base64: must be a string")
	}
	src := text[1 : len(text)-1]
	if bytes.IndexByte(src, '\\') >= 0 { // some encoders write / as \/
		src = appendUnquoted(nil, text)
	}
	c.Kind = broker.KindBinary
	c.Data = make([]byte, base64.StdEncoding.DecodedLen(len(src)))
	n, err := base64.StdEncoding.Strict().Decode(c.Data, src)
	if err != nil || bytes.ContainsAny(src, "\r\n") { // which Decode skips
		return errors.New("data_base64: must be standard base64 with padding")
	}
	c.Data = c.Data[:n]
	return nil
}

func (c *Command) decodeJoin(f *fields) (err error) {
	if c.Room == "" {
		return errors.New("room: missing")
	}
	if c.Since, err = stringField(f, fieldSince); err != nil {
		return err
	}
	if _, err = broker.ParseCursor(c.Since); err != nil {
		return errors.New("since: not a cursor of this server")
	}
	c.HasSince = c.Since != ""
	c.History, err = intField(f, fieldHistory, c.History, 0, MaxJoinHistory)
	return err
}

// decodeTarget reads the object in to: nil is everyone, else it has a client or a user.
func decodeTarget(v []byte) (to broker.Target, err error) {
	if v == nil {
		return to, nil
	}
	if v[0] != '{' {
		return to, errors.New("to: must be an object")
	}
	var client, user []byte
	twice := false
	skipObject(v, 0, MaxDepth, func(key, value []byte) {
		switch string(appendUnquoted(nil, key)) {
		case "client":
			twice = twice || client != nil
			client = value
		case "user":
			twice = twice || user != nil
			user = value
		}
	})
	if twice {
		return to, errors.New("to: has a field twice")
	}
	if to.Client, err = targetField(client); err == nil {
		to.User, err = targetField(user)
	}
	if err == nil && (to.Client == "") == (to.User == "") {
		err = errors.New("to: must have either client or user")
	}
	return to, err
}

func targetField(v []byte) (string, error) {
	if v == nil || string(v) == "null" {
		return "", nil
	}
	if v[0] != '"' || len(v) == 2 {
		return "", errors.New("to: client and user must be strings that are not empty")
	}
	return unquote(v), nil
}

// DecodeData reads the JSON value in v as the data of a message, as in publish: a string
// is text, any other value is kept, compact. It keeps nothing of v.
func DecodeData(v []byte) (broker.Kind, []byte, error) {
	start := skipSpace(v, 0)
	end := skipValue(v, start, MaxDepth-1)
	if end < 0 || skipSpace(v, end) != len(v) || !utf8.Valid(v) {
		return 0, nil, errJSON
	}
	kind, data := decodeValue(v[start:end])
	return kind, data, nil
}

func decodeValue(v []byte) (kind broker.Kind, data []byte) {
	data = make([]byte, 0, len(v))
	if v[0] == '"' {
		kind, data = broker.KindText, appendUnquoted(data, v)
	} else {
		kind, data = broker.KindJSON, appendCompact(data, v)
	}
	if len(data) < cap(data)*3/4 { // a broker counts what it keeps by its length
		data = bytes.Clone(data)
	}
	return kind, data
}

// stringField is "" where the field is not given.
func stringField(f *fields, i int) (string, error) {
	v := f[i]
	if v == nil {
		return "", nil
	}
	if v[0] != '"' {
		return "", named(i, errors.New("must be a string"))
	}
	return unquote(v), nil
}

func intField(f *fields, i, absent, least, most int) (int, error) {
	if f[i] == nil {
		return absent, nil
	}
	n, err := strconv.Atoi(string(f[i]))
	if err != nil || n < least || n > most {
		return 0, named(i, fmt.Errorf("must be an integer from %d to %d", least, most))
	}
	return n, nil
}

func unquote(v []byte) string {
	if bytes.IndexByte(v, '\\') < 0 {
		return string(v[1 : len(v)-1])
	}
	return string(appendUnquoted(nil, v))
}

func named(field int, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fieldNames[field], err)
}
