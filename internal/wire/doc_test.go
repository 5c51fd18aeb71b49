package wire

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/chathub-go/hub/broker"
	"github.com/stretchr/testify/require"
)

// The tests here hold docs/protocol.md to the package.

func protocol(t *testing.T) string {
	p, err := os.ReadFile("../../docs/protocol.md")
	require.NoError(t, err)
	return string(p)
}

// constants are the values of the package's constants whose names begin with prefix.
func constants(t *testing.T, prefix string) (values []string) {
	file, err := parser.ParseFile(token.NewFileSet(), "wire.go", nil, 0)
	require.NoError(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if ok && strings.HasPrefix(spec.Names[0].Name, prefix) && len(spec.Values) == 1 {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			values = append(values, value)
		}
		return true
	})
	require.NotEmpty(t, values)
	return values
}

// fenced is an example: a marker, then one object in a fence.
var fenced = regexp.MustCompile("(?m)^<!-- (command|event): (\\w+) -->\n```json\n(.*)\n```$")

func examples(t *testing.T, what string) (found map[string][]string) {
	doc := protocol(t)
	all := fenced.FindAllStringSubmatch(doc, -1)
	require.Len(t, all, strings.Count(doc, "```json"), "each example has its marker")
	found = map[string][]string{}
	for _, m := range all {
		if m[1] == what {
			found[m[2]] = append(found[m[2]], m[3])
		}
	}
	return found
}

// fieldsOf are the names in the first column of the tables under a heading.
func fieldsOf(t *testing.T, heading string) (names []string) {
	_, section, found := strings.Cut(protocol(t), "\n"+heading+"\n")
	require.True(t, found, heading)
	section, _, _ = strings.Cut(section, "\n##")
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for i, word := range strings.Split(cells[1], "`") {
			if i%2 == 1 {
				names = append(names, word)
			}
		}
	}
	return names
}

// jsonFields are the names that encoding/json gives the fields of a struct, those of
// the structs in it too where these have a table of their own.
func jsonFields(typ reflect.Type) (names []string) {
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			names = append(names, jsonFields(f.Type)...)
		case name != "" && name != "-":
			names = append(names, name)
		}
	}
	return names
}

// events tells for each event how a client reads it and how the server writes it.
var events = map[string]struct {
	read  any // a pointer to a zero struct
	write func(dst []byte, v any) ([]byte, error)
}{
	EventWelcome: {&Welcome{}, writer(AppendWelcome)},
	EventMessage: {&Message{}, func(dst []byte, v any) ([]byte, error) {
		m, err := v.(*Message).Decode()
		return AppendMessage(dst, m), err
	}},
	EventDirect:   {&Signal{}, signalWriter(AppendDirect)},
	EventSignal:   {&Signal{}, signalWriter(AppendSignal)},
	EventAck:      {&Ack{}, writer(AppendAck)},
	EventError:    {&Error{}, writer(AppendError)},
	EventJoined:   {&Joined{}, writer(AppendJoined)},
	EventLeft:     {&Left{}, writer(AppendLeft)},
	EventTyping:   {&Typing{}, writer(AppendTyping)},
	EventPresence: {&Presence{}, writer(AppendPresence)},
	EventGap:      {&Gap{}, writer(AppendGap)},
	EventHistory:  {&History{}, writer(AppendHistory)},
	EventLeftRoom: {&LeftRoom{}, writer(AppendLeftRoom)},
	EventDrain:    {&Drain{}, writer(AppendDrain)},
	EventPong:     {&Pong{}, writer(AppendPong)},
}

func writer[E any](write func([]byte, *E) []byte) func([]byte, any) ([]byte, error) {
	return func(dst []byte, v any) ([]byte, error) { return write(dst, v.(*E)), nil }
}

func signalWriter(write func([]byte, *broker.Signal) []byte) func([]byte, any) ([]byte, error) {
	return func(dst []byte, v any) ([]byte, error) {
		s, err := v.(*Signal).Decode()
		return write(dst, s), err
	}
}

// A field that the struct has not is lost on the way, and so found as well.
func TestProtocolEvents(t *testing.T) {
	found := examples(t, "event")
	for _, name := range constants(t, "Event") {
		require.NotEmpty(t, found[name], "examples of %s", name)
		event, ok := events[name]
		require.True(t, ok, name)
		typ := reflect.TypeOf(event.read).Elem()
		for _, example := range found[name] {
			v := reflect.New(typ).Interface()
			require.NoError(t, json.Unmarshal([]byte(example), v), example)
			again, err := event.write(nil, v)
			require.NoError(t, err)
			require.Equal(t, value(t, []byte(example)), value(t, again), "%s", example)
		}

		documented := fieldsOf(t, "### Event `"+name+"`")
		fields := jsonFields(typ)
		switch name {
		case EventSignal:
			fields = without(fields, "to")
		case EventError:
			fields = append(fields, "retry_after_ms")
		case EventWelcome:
			fields = append(fields, jsonFields(reflect.TypeFor[Limits]())...)
		}
		for _, field := range fields {
			require.Contains(t, documented, field, "fields of %s", name)
		}
		delete(found, name)
	}
	require.Empty(t, found, "examples of events that are none")
	require.Len(t, events, len(constants(t, "Event")))
}

func without(names []string, name string) (rest []string) {
	for _, n := range names {
		if n != name {
			rest = append(rest, n)
		}
	}
	return rest
}

func TestProtocolCommands(t *testing.T) {
	names := constants(t, "Command")
	require.Equal(t, commands, names)
	found := examples(t, "command")
	documented := map[string]bool{"type": true}
	for _, name := range names {
		require.NotEmpty(t, found[name], "examples of %s", name)
		fields := fieldsOf(t, "### Command `"+name+"`")
		for _, field := range fields {
			documented[field] = true
		}
		for _, example := range found[name] {
			var c Command
			require.Nil(t, Decode([]byte(example), &c), example)
			require.Equal(t, name, c.Type)
			for field := range value(t, []byte(example)).(map[string]any) {
				require.Contains(t, append(fields, "type"), field, example)
			}
		}
		delete(found, name)
	}
	require.Empty(t, found, "examples of commands that are none")
	for _, field := range fieldNames {
		require.True(t, documented[field], "%s is documented", field)
	}
}

func TestProtocolCodes(t *testing.T) {
	doc := protocol(t)
	for _, code := range constants(t, "Code") {
		retry := "no"
		if Retryable[code] {
			retry = "yes"
		}
		require.Contains(t, doc, "\n| `"+code+"` | "+retry+" | ")
	}
	for _, reason := range constants(t, "Reason") {
		require.Contains(t, doc, "\n| `"+reason+"` | ")
	}
	for _, verdict := range []string{RecoveryNew, broker.Recovered.String(), broker.Gap.String(), broker.Reset.String()} {
		require.Contains(t, doc, "\n| `"+verdict+"` | ")
	}
	require.Contains(t, doc, "`"+Subprotocol+"`")
}

func TestProtocolNumbers(t *testing.T) {
	doc := protocol(t)
	for _, said := range []string{
		fmt.Sprintf("nested at most %d levels", MaxDepth),
		fmt.Sprintf("| `history` | 0 to %d", MaxJoinHistory),
		fmt.Sprintf("| `limit` | 1 to %d, optional | default %d |", MaxHistoryLimit, HistoryLimit),
		fmt.Sprintf("each user once; the first %d |\n| `member_count`", MaxWelcomeMembers),
		fmt.Sprintf("each user once; the first %d |\n| `count`", MaxListMembers),
		fmt.Sprintf("1 to %d bytes of printable UTF-8", MaxName),
		fmt.Sprintf("| `key` | string, optional | at most %d bytes", MaxKey),
	} {
		require.Contains(t, doc, said)
	}
}

// The lines that the plain door is said to write.
func TestProtocolPlainDoor(t *testing.T) {
	f := DefaultText()
	for _, line := range []string{
		f.Message(&broker.Message{From: alice, Data: []byte("hello")}),
		f.Message(&broker.Message{Data: []byte("the service says")}),
		f.Direct(&broker.Signal{From: alice, To: broker.Target{User: "u"}, Data: []byte("psst")}),
		f.Joined("", alice), f.Left("", alice, ""), f.Gap("", 3), f.Gap("", -1), f.Drain(),
		f.Error(&Error{Message: "..."}),
	} {
		require.Contains(t, protocol(t), "`"+line+"`")
	}
}
