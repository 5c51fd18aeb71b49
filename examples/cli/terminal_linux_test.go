package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/term"

	"github.com/chathub-go/hub"
)

// A terminal is the program on a pseudo terminal (pty(7)) of 40 columns.
type terminal struct {
	*process
	master *os.File
	before *term.State
	shown  string // since the last until
}

func startTerminal(t *testing.T, args ...string) *terminal {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo terminals here: ", err)
	}
	t.Cleanup(func() { master.Close() })
	var unlock, n int32
	ioctl(t, master, syscall.TIOCSPTLCK, unsafe.Pointer(&unlock))
	ioctl(t, master, syscall.TIOCGPTN, unsafe.Pointer(&n))
	size := [4]uint16{24, 40}
	ioctl(t, master, syscall.TIOCSWINSZ, unsafe.Pointer(&size))
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	defer slave.Close()

	before, err := term.GetState(int(slave.Fd()))
	require.NoError(t, err)
	p := &terminal{process: &process{Cmd: command(t, args...)}, master: master, before: before}
	p.Stdin, p.Stdout, p.Stderr = slave, slave, slave
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, p.Start())
	return p
}

func ioctl(t *testing.T, f *os.File, request uintptr, arg unsafe.Pointer) {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), request, uintptr(arg))
	require.Zero(t, errno)
}

func (p *terminal) press(t *testing.T, keys string) {
	_, err := p.master.WriteString(keys)
	require.NoError(t, err)
}

// until reads what is shown up to some text.
func (p *terminal) until(t *testing.T, want string) (shown string) {
	b := make([]byte, 1024)
	for !strings.Contains(p.shown, want) {
		n, err := p.master.Read(b)
		p.shown += string(b[:n])
		require.NoError(t, err, "waiting for %q, got %q", want, p.shown)
	}
	i := strings.Index(p.shown, want) + len(want)
	shown, p.shown = p.shown[:i], p.shown[i:]
	return shown
}

// end waits for the end, and checks that the terminal is as it was.
func (p *terminal) end(t *testing.T) (code int) {
	p.Wait()
	after, err := term.GetState(int(p.master.Fd()))
	require.NoError(t, err)
	require.Equal(t, p.before, after, "the terminal's settings")
	return p.ProcessState.ExitCode()
}

func TestTerminal(t *testing.T) {
	for name, keys := range map[string]string{"Ctrl-C": "\x03", "Ctrl-D": "\x04", "exit": "exit\r"} {
		t.Run(name, func(t *testing.T) {
			s := startHub(t)
			p := startTerminal(t, "-addr", s.addr)
			p.until(t, "name: ")
			p.press(t, "アリス\r")
			p.until(t, "connected to lobby as アリス")
			p.until(t, "> ")
			p.press(t, "今日は")
			p.until(t, "今日は")
			s.say(t, "an interruption")
			p.until(t, "\r\x1b[J* an interruption\r\n> 今日は") // and the line is whole again below it
			p.press(t, "。\r")
			p.until(t, "アリス: 今日は。\r\n> ")
			p.press(t, keys)
			require.Equal(t, 0, p.end(t))
			require.NoError(t, <-s.left, "it left with a close handshake")
		})
	}
}

// TestTerminalOffline: what is typed while the connection is lost goes out after it.
func TestTerminalOffline(t *testing.T) {
	s := startHub(t)
	p := startTerminal(t, "-addr", s.addr, "-name", "alice")
	p.until(t, "connected to lobby")
	p.press(t, "half a li")
	p.until(t, "> half a li")
	s.listener.cut()
	p.until(t, "connection lost")
	p.press(t, "ne\r")
	p.until(t, "connected again, nothing was missed")
	p.until(t, "alice: half a line")
	p.press(t, "\x03")
	require.Equal(t, 0, p.end(t))
}

// TestTerminalRefused: the terminal is restored before the error is written.
func TestTerminalRefused(t *testing.T) {
	s := startHub(t)
	p := startTerminal(t, "-addr", s.addr, "-name", "a:b")
	p.until(t, "\r\x1b[Jcli: "+s.addr+" says: ")
	p.until(t, "\r\n") // the terminal's own carriage return: it is no longer raw
	require.Equal(t, 1, p.end(t))

	p = startTerminal(t, "-addr", s.addr)
	p.until(t, "name: ")
	p.press(t, "\x03")
	require.Equal(t, 0, p.end(t))
}

// TestTerminalKick: the server ends it while the user is typing.
func TestTerminalKick(t *testing.T) {
	s := startHub(t)
	p := startTerminal(t, "-addr", s.addr, "-name", "alice")
	var c *hub.Client = <-s.joined
	p.press(t, "half a line")
	p.until(t, "half a line")
	c.Close(1008, "be\x1bnice")
	p.until(t, "cli: the server closed the connection: be\uFFFDnice\r\n")
	require.Equal(t, 1, p.end(t))
}
