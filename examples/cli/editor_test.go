package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

// A screen is as much of a terminal as the editor uses: characters of one and two
// columns, line wrap, and a handful of escape sequences. It fails the test on any other.
type screen struct {
	t      *testing.T
	width  int
	rows   [][]string // cells; the second one of a wide character is ""
	x, y   int
	sx, sy int
}

func newScreen(t *testing.T, width int) *screen { return &screen{t: t, width: width} }

func (s *screen) size() (int, int, error) { return s.width, 24, nil }

func (s *screen) Write(p []byte) (int, error) {
	for rest := []rune(string(p)); len(rest) > 0; {
		rest = rest[s.put(rest):]
	}
	return len(p), nil
}

// put takes one character or sequence, and returns its length.
func (s *screen) put(p []rune) int {
	switch r := p[0]; {
	case r == '\r':
		s.x = 0
	case r == '\n':
		s.y++
	case r == 0x1b && p[1] == '7':
		s.sx, s.sy = s.x, s.y
		return 2
	case r == 0x1b && p[1] == '8':
		s.x, s.y = s.sx, s.sy
		return 2
	case r == 0x1b && p[1] == '[':
		end := 2
		n := 0
		for ; unicode.IsDigit(p[end]); end++ {
			n = n*10 + int(p[end]-'0')
		}
		switch p[end] {
		case 'A':
			s.y = max(s.y-max(n, 1), 0)
		case 'J':
			s.row()
			s.rows = s.rows[:s.y+1]
			s.rows[s.y] = s.rows[s.y][:min(s.x, len(s.rows[s.y]))]
		default:
			s.t.Fatalf("the editor sent %q", string(p[:end+1]))
		}
		return end + 1
	case unicode.IsControl(r):
		s.t.Fatalf("the editor sent %q", r)
	default:
		s.char(r)
	}
	return 1
}

func (s *screen) row() {
	for len(s.rows) <= s.y {
		s.rows = append(s.rows, nil)
	}
}

func (s *screen) char(r rune) {
	w := columns([]rune{r})
	if s.x+w > s.width {
		s.x, s.y = 0, s.y+1
	}
	s.row()
	row := s.rows[s.y]
	if w == 0 {
		if s.x > 0 {
			row[s.x-1] += string(r)
		}
		return
	}
	for len(row) < s.x+w {
		row = append(row, " ")
	}
	row[s.x] = string(r)
	if w == 2 {
		row[s.x+1] = ""
	}
	s.rows[s.y] = row
	s.x += w
}

// resize breaks rows that are now too long, as terminals do that reflow.
func (s *screen) resize(width int) {
	var rows [][]string
	y := s.y
	for i, row := range s.rows {
		cut := 0
		for len(row) > width {
			rows = append(rows, row[:width])
			row = row[width:]
			cut++
		}
		rows = append(rows, row)
		if i < s.y {
			y += cut
		} else if i == s.y {
			y += s.x / width
			s.x %= width
		}
	}
	s.rows, s.y, s.width = rows, y, width
}

func (s *screen) String() string {
	var lines []string
	for _, row := range s.rows {
		lines = append(lines, strings.TrimRight(strings.Join(row, ""), " "))
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n")
}

// typing is an editor whose keys come from type, and whose lines end up in lines.
type typing struct {
	*editor
	s     *screen
	keys  *io.PipeWriter
	begun chan struct{} // has a value each time the editor wants more keys
	lines chan string
	errs  chan error
}

func newTyping(t *testing.T, s *screen) *typing {
	r, w := io.Pipe()
	begun := make(chan struct{})
	k := &typing{editor: newEditor(eager{r, begun}, s, s.size), s: s, keys: w, begun: begun, lines: make(chan string, 10), errs: make(chan error, 1)}
	k.SetPrompt("> ")
	go func() {
		defer close(begun)
		for {
			line, err := k.ReadLine()
			if err != nil {
				k.errs <- err
				return
			}
			k.lines <- line
		}
	}()
	<-begun
	t.Cleanup(func() {
		w.Close()
		for range begun { // until it has ended
		}
	})
	return k
}

// press types keys; they are done when it returns: the editor reads on when it has done what it
// read.
func (k *typing) press(keys string) {
	for _, r := range keys {
		io.WriteString(k.keys, string(r))
		<-k.begun
	}
}

// eager tells when a read begins.
type eager struct {
	io.Reader
	begun chan<- struct{}
}

func (e eager) Read(p []byte) (int, error) {
	e.begun <- struct{}{}
	return e.Reader.Read(p)
}

// shows returns what is on the screen, and the cursor's column.
func (k *typing) shows() (string, int) {
	k.mu.Lock() // of the editor: it may be drawing what is there anew
	defer k.mu.Unlock()
	return k.s.String(), k.s.x
}

func (k *typing) resize(width int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.s.resize(width)
}

func (k *typing) require(t *testing.T, want string) {
	t.Helper()
	got, _ := k.shows()
	require.Equal(t, want, got)
}

func TestEditor(t *testing.T) {
	const left, right, home, end, del = "\x1b[D", "\x1bOC", "\x1b[H", "\x1b[4~", "\x1b[3~"
	for _, tc := range []struct{ name, keys, want string }{
		{"plain", "hello\r", "hello"},
		{"line feed", "hello\n", "hello"},
		{"backspace", "helloo\x7f\r", "hello"},
		{"backspace over Japanese", "日本語\x7f\r", "日本"},
		{"backspace at the begin", "\x7f\x7fa\r", "a"},
		{"insert in the middle", "hllo" + left + left + left + "e\r", "hello"},
		{"home and end", "ell" + home + "h" + end + "o\r", "hello"},
		{"delete", "xhello" + home + del + "\r", "hello"},
		{"right", "ab" + home + right + "x\r", "axb"},
		{"right at the end", "ab" + right + right + "c\r", "abc"},
		{"kill to the end", "hello world" + strings.Repeat(left, 6) + "\x0b\r", "hello"},
		{"kill to the begin", "hello\x15bye\r", "bye"},
		{"kill a word", "hello big world\x17\x17you\r", "hello you"},
		{"a combining mark goes with its letter", "e\u0301x" + left + left + left + del + "\r", "x"},
		{"control characters", "a\x00\x1bxb\x02\x06\r", "ab"},
		{"unknown sequences", "a\x1b[200~b\x1b[1;5Dc\r", "abc"},
		{"tab", "a\tb\r", "a b"},
		{"Ctrl-D in a line deletes", "ab" + home + "\x04\r", "b"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ed := newEditor(strings.NewReader(tc.keys), newScreen(t, 40), newScreen(t, 40).size)
			got, err := ed.ReadLine()
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
	for keys, want := range map[string]error{"\x04": io.EOF, "": io.EOF, "half a line": io.EOF, "half\x03": errInterrupt} {
		_, err := newEditor(strings.NewReader(keys), io.Discard, newScreen(t, 40).size).ReadLine()
		require.ErrorIs(t, err, want, "%q", keys)
	}
}

// TestNobodyInterruptsALine: the line that is being typed stays whole, below what
// others say.
func TestNobodyInterruptsALine(t *testing.T) {
	s := newScreen(t, 40)
	k := newTyping(t, s)
	k.press("日本語を書い")
	k.Print("bob: hello")
	k.require(t, "bob: hello\n> 日本語を書い")
	k.press("ている")
	k.Print("bob: " + strings.Repeat("long ", 10))
	k.Print("bob: two\n    lines")
	k.require(t, "bob: hello\nbob: "+strings.TrimSpace(strings.Repeat("long ", 7))+"\nlong long long\nbob: two\n    lines\n> 日本語を書いている")
	k.press("\r")
	require.Equal(t, "日本語を書いている", <-k.lines)
	got, _ := k.shows()
	require.True(t, strings.HasSuffix(got, "    lines\n>"), "got %q", got)
}

// TestLongLine: a line longer than the terminal takes one row, with the part around the
// cursor, and comes out whole.
func TestLongLine(t *testing.T) {
	s := newScreen(t, 20)
	k := newTyping(t, s)
	long := "abcdefghijklmnopqrstuvwxyz"
	k.press(long)
	k.require(t, "> klmnopqrstuvwxyz")
	k.Print("bob: hi")
	k.require(t, "bob: hi\n> klmnopqrstuvwxyz")
	k.press("\x01") // home
	k.require(t, "bob: hi\n> abcdefghijklmnopq")
	_, x := k.shows()
	require.Equal(t, 2, x)
	k.press("\x1b[C\x1b[C_")
	k.require(t, "bob: hi\n> ab_cdefghijklmnop")
	_, x = k.shows()
	require.Equal(t, 5, x)
	k.press("\r")
	require.Equal(t, "ab_cdefghijklmnopqrstuvwxyz", <-k.lines)

	k.press(strings.Repeat("語", 30))
	k.require(t, "bob: hi\n> "+strings.Repeat("語", 8))
	k.press("\r")
	require.Equal(t, strings.Repeat("語", 30), <-k.lines)
}

// TestNarrower: the terminal becomes narrower than what is typed, and breaks its row.
func TestNarrower(t *testing.T) {
	s := newScreen(t, 40)
	k := newTyping(t, s)
	k.Print("bob: hi")
	k.press("the quick brown fox jumps")
	k.resize(16)
	k.require(t, "bob: hi\n> the quick brow\nn fox jumps")
	k.Print("bob: still here")
	k.require(t, "bob: hi\nbob: still here\n> wn fox jumps")
	k.resize(40)
	k.press("!")
	k.require(t, "bob: hi\nbob: still here\n> the quick brown fox jumps!")
	k.resize(3)
	k.Print("x")
	io.WriteString(k.keys, "\x03")
	require.ErrorIs(t, <-k.errs, errInterrupt)
}

func TestHide(t *testing.T) {
	s := newScreen(t, 40)
	k := newTyping(t, s)
	k.press("half a line")
	k.Hide()
	k.Print("* left")
	k.require(t, "* left")
}

func FuzzEditor(f *testing.F) {
	f.Add([]byte("日本\x1b[D\x7f\x01x\x1b[3~"), 10)
	f.Fuzz(func(t *testing.T, keys []byte, width int) {
		s := newScreen(t, 4+(width&0x7f))
		ed := newEditor(bytes.NewReader(keys), s, s.size)
		ed.SetPrompt("> ")
		for {
			if _, err := ed.ReadLine(); err == io.EOF && ed.in.Buffered() == 0 {
				return
			}
			ed.Print("x")
		}
	})
}
