package wire

import (
	"strings"

	"github.com/chathub-go/hub/broker"
)

// Templates are the lines of a TextFormat as data. An empty one sends nothing.
type Templates struct {
	Message, Direct, Joined, Left, Missed, Refused, Drain string
}

// TemplateText is the format that fills templates in.
func TemplateText(t Templates) TextFormat {
	fill := func(template, room string, m broker.Member, text string) string {
		return strings.NewReplacer(
			"{name}", label(m), "{user}", indent(m.User), "{room}", room, "{text}", text,
		).Replace(template)
	}
	var f TextFormat
	if t.Message != "" {
		f.Message = func(m *broker.Message) string { return fill(t.Message, m.Room, m.From, indent(string(m.Data))) }
	}
	if t.Direct != "" {
		f.Direct = func(s *broker.Signal) string { return fill(t.Direct, s.Room, s.From, indent(string(s.Data))) }
	}
	if t.Joined != "" {
		f.Joined = func(room string, m broker.Member) string { return fill(t.Joined, room, m, "") }
	}
	if t.Left != "" {
		f.Left = func(room string, m broker.Member, _ string) string { return fill(t.Left, room, m, "") }
	}
	if t.Missed != "" {
		f.Gap = func(room string, _ int) string { return fill(t.Missed, room, broker.Member{}, "") }
	}
	if t.Refused != "" {
		f.Error = func(e *Error) string { return fill(t.Refused, e.Room, broker.Member{}, indent(e.Message)) }
	}
	if t.Drain != "" {
		f.Drain = func() string { return t.Drain }
	}
	return f
}
