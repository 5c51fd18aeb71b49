package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"unicode"
)

// errInterrupt is what ReadLine returns for Ctrl-C.
var errInterrupt = errors.New("interrupted")

// maxLine is how many characters the editor takes for one line.
const maxLine = 16 << 10

// An editor reads lines from a terminal in raw mode, and shows lines above the one
// that is being typed, which stays whole. The line being typed takes one row;
// of a longer one the part around the cursor is shown. (term.Terminal of
// golang.org/x/term counts every character as one column, and so leaves pieces of
// Japanese or emoji behind.)
//
// ReadLine belongs to one goroutine; Print and SetPrompt may be called by any.
type editor struct {
	in   *bufio.Reader
	out  io.Writer
	size func() (width, height int, err error) // of the terminal

	mu     sync.Mutex // guards what follows, and keeps one write to out from another
	prompt []rune
	line   []rune
	pos    int // the cursor, in line
	start  int // the first character of line that is shown
	drawn  int // columns from the row's begin to the cursor, as last drawn
	width  int // of the terminal, as last drawn
	hidden bool
}

func newEditor(in io.Reader, out io.Writer, size func() (int, int, error)) *editor {
	return &editor{in: bufio.NewReader(in), out: out, size: size, hidden: true}
}

// ReadLine shows the prompt and returns the next line that was typed, without its
// end. It returns io.EOF for Ctrl-D on an empty line or the end of input, and errInterrupt for Ctrl-C.
func (e *editor) ReadLine() (string, error) {
	e.edit(func() { e.hidden = false })
	for {
		k, err := e.readKey()
		if err != nil {
			return "", err
		}
		var line string
		var end bool
		e.edit(func() {
			if end, err = e.press(k); end {
				line = string(e.line)
				e.line, e.pos, e.start = e.line[:0], 0, 0
			}
		})
		if end {
			return line, err
		}
	}
}

// Print shows a line above the one that is being typed.
func (e *editor) Print(s string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.appendErase(nil)
	for _, r := range s {
		if r == '\n' { // raw mode: the terminal adds no carriage return
			b = append(b, '\r')
		}
		b = append(b, string(r)...)
	}
	b = append(b, "\r\n"...)
	e.out.Write(e.appendLine(b))
}

// SetPrompt changes what stands before the line that is being typed.
func (e *editor) SetPrompt(s string) {
	e.edit(func() { e.prompt = []rune(s) })
}

// Hide removes the prompt and the line being typed until the next ReadLine.
func (e *editor) Hide() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.out.Write(e.appendErase(nil))
	e.hidden = true
}

// edit lets change alter the line and draws it anew.
func (e *editor) edit(change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.appendErase(nil)
	change()
	e.out.Write(e.appendLine(b))
}

// appendErase appends what takes the line being typed off the screen. A terminal
// that became narrower has broken the row, so that the cursor may be some rows lower.
func (e *editor) appendErase(b []byte) []byte {
	if e.hidden {
		return b
	}
	if width := e.columns(); width < e.width {
		if rows := e.drawn / width; rows > 0 {
			b = fmt.Appendf(b, "\x1b[%dA", rows)
		}
	}
	return append(b, "\r\x1b[J"...)
}

// appendLine appends the prompt and the part of the line around the cursor. The
// terminal itself notes where the cursor belongs (DECSC, DECRC): no table of widths
// has to agree with its own.
func (e *editor) appendLine(b []byte) []byte {
	if e.hidden {
		return b
	}
	e.width = e.columns()
	prompt := e.prompt
	room := e.width - 1 - columns(prompt)
	if room < 4 { // too narrow for both
		prompt, room = nil, max(e.width-1, 2)
	}
	e.start = min(e.start, e.pos)
	for columns(e.line[e.start:e.pos]) > room-1 { // a column for the cursor itself
		e.start++
	}
	for e.start > 0 && columns(e.line[e.start-1:]) < room { // room on the right: show more on the left
		e.start--
	}
	end := e.pos
	for end < len(e.line) && columns(e.line[e.start:end+1]) <= room {
		end++
	}
	b = append(b, string(prompt)...)
	b = append(b, string(e.line[e.start:e.pos])...)
	if end > e.pos {
		b = append(b, "\x1b7"...)
		b = append(b, string(e.line[e.pos:end])...)
		b = append(b, "\x1b8"...)
	}
	e.drawn = columns(prompt) + columns(e.line[e.start:e.pos])
	return b
}

func (e *editor) columns() int {
	width, _, err := e.size()
	if err != nil || width <= 0 { // a container's terminal has none at first
		return 80
	}
	return width
}

// A key is a character that was typed, or one of the constants.
type key rune

const (
	keyLeft key = -1 - iota
	keyRight
	keyHome
	keyEnd
	keyDelete
	keyOther
)

func ctrl(c rune) key { return key(c & 0x1f) }

// press does what a key says, and tells if it ended the line.
func (e *editor) press(k key) (end bool, err error) {
	switch k {
	case ctrl('C'):
		return true, errInterrupt
	case '\r', '\n':
		return true, nil
	case ctrl('D'):
		if len(e.line) == 0 {
			return true, io.EOF
		}
		e.remove(e.pos, e.pos+1)
	case keyDelete:
		e.remove(e.pos, e.pos+1)
	case 0x7f, ctrl('H'):
		e.remove(e.pos-1, e.pos)
	case ctrl('W'):
		from := e.pos
		for from > 0 && unicode.IsSpace(e.line[from-1]) {
			from--
		}
		for from > 0 && !unicode.IsSpace(e.line[from-1]) {
			from--
		}
		e.remove(from, e.pos)
	case ctrl('U'):
		e.remove(0, e.pos)
	case ctrl('K'):
		e.remove(e.pos, len(e.line))
	case keyLeft, ctrl('B'):
		e.pos = max(e.pos-1, 0)
	case keyRight, ctrl('F'):
		e.pos = min(e.pos+1, len(e.line))
	case keyHome, ctrl('A'):
		e.pos = 0
	case keyEnd, ctrl('E'):
		e.pos = len(e.line)
	case '\t':
		e.insert(' ')
	default:
		e.insert(rune(k))
	}
	return false, nil
}

func (e *editor) insert(r rune) {
	if r < 0 || !isShown(r) || len(e.line) >= maxLine {
		return
	}
	e.line = slices.Insert(e.line, e.pos, r)
	e.pos++
}

// remove takes line[from:to] away, as far as there is such a part. What a combining
// mark stands on goes with it.
func (e *editor) remove(from, to int) {
	from, to = max(from, 0), min(to, len(e.line))
	if from >= to {
		return
	}
	for to < len(e.line) && unicode.Is(unicode.Mn, e.line[to]) {
		to++
	}
	e.line = slices.Delete(e.line, from, to)
	e.pos = min(from, len(e.line))
}

// readKey reads one character or one escape sequence (ECMA-48: ESC [ parameters final,
// or ESC O final).
func (e *editor) readKey() (key, error) {
	r, _, err := e.in.ReadRune()
	if err != nil || r != 0x1b {
		return key(r), err
	}
	if r, _, err = e.in.ReadRune(); err != nil || r != '[' && r != 'O' {
		return keyOther, err
	}
	var param []rune
	for {
		if r, _, err = e.in.ReadRune(); err != nil {
			return keyOther, err
		}
		if r >= 0x40 {
			break
		}
		param = append(param, r)
		if len(param) > 16 {
			return keyOther, nil
		}
	}
	switch string(param) + string(r) {
	case "D":
		return keyLeft, nil
	case "C":
		return keyRight, nil
	case "H", "1~", "7~":
		return keyHome, nil
	case "F", "4~", "8~":
		return keyEnd, nil
	case "3~":
		return keyDelete, nil
	}
	return keyOther, nil
}
