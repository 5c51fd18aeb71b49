// Command cli is a chat client for a terminal, or for a pipe.
//
//	go run ./examples/cli -name alice [-addr localhost:8000] [-room lobby]
//
// It sends what is typed line by line and shows what the room says. "exit", Ctrl-D or
// Ctrl-C leaves. What a lost connection cut off is sent again after the next one is made,
// once. Package hubclient does all that; here is how a program uses it: chat.go dials,
// publishes and takes the events, words.go puts them into words.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "cli: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("cli", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	name := flags.String("name", "", "`name` that others see; asked for where it is missing")
	addr := flags.String("addr", "localhost:8000", "server: `host:port`, or a URL with ws:// or wss://")
	room := flags.String("room", "lobby", "`room` to enter")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(os.Stdout)
		fmt.Println("usage: cli [-name alice] [-addr localhost:8000] [-room lobby]")
		flags.PrintDefaults()
		fmt.Println("Each line is a message. exit, Ctrl-D or Ctrl-C leaves.")
		return nil
	case err != nil:
		return err
	case flags.NArg() > 0:
		return fmt.Errorf("what does %q mean? see -help", flags.Arg(0))
	}
	u, err := roomURL(*addr, *room)
	if err != nil {
		return err
	}
	if term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd())) {
		return onTerminal(u, *name)
	}
	return onPipe(u, *name)
}

// lobbyPath is where the room lobby is, as it is on servers that have one room only. On
// one that says 404 there it is below, like every other room.
const lobbyPath = "/room"

// roomURL is where a room of a server is.
func roomURL(addr, room string) (*url.URL, error) {
	if !strings.Contains(addr, "://") {
		if strings.HasPrefix(addr, ":") {
			addr = "localhost" + addr
		}
		addr = "ws://" + addr
	}
	u, err := url.Parse(addr)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("-addr %q is no host:port and no URL", addr)
	}
	switch u.Scheme {
	case "http":
		u.Scheme = "ws"
	case "https":
		u.Scheme = "wss"
	case "ws", "wss":
	default:
		return nil, fmt.Errorf("-addr %q: only ws:// and wss:// URLs", addr)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = lobbyPath
	}
	if room == "." || room == ".." { // a path would lead elsewhere; the server knows of every other name whether it is one
		return nil, fmt.Errorf("-room %q is no name of a room", room)
	}
	if room != "lobby" {
		u = u.JoinPath(url.PathEscape(room))
	}
	u.Fragment = ""
	return u, nil
}

// maxInput is the longest line of standard input, in bytes.
const maxInput = 1 << 20

// onPipe talks without a terminal: what the room says goes to standard output, what the
// client says to standard error. Nobody can be asked for a name: without one the
// server gives one.
func onPipe(u *url.URL, name string) error {
	input := make(chan string)
	broken := make(chan error, 1)
	go func() { // may wait for input until the process ends
		in := bufio.NewScanner(os.Stdin)
		in.Buffer(nil, maxInput)
		for in.Scan() {
			input <- in.Text()
		}
		broken <- in.Err()
		close(input)
	}()
	c := &chat{
		say:   func(s string) { fmt.Println(s) },
		note:  func(s string) { fmt.Fprintln(os.Stderr, s) },
		state: func(bool) {},
		input: input,
		quit:  signals(),
		wait:  true,
		grace: 30 * time.Second,
	}
	if err := c.run(u, name); err != nil {
		return err
	}
	select {
	case err := <-broken:
		if err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
	default: // it left by "exit", a signal, or the server's will
	}
	return nil
}

// onTerminal talks with a line editor.
func onTerminal(u *url.URL, name string) error {
	in := int(os.Stdin.Fd())
	old, err := term.MakeRaw(in)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer term.Restore(in, old)
	ed := newEditor(os.Stdin, os.Stdout, func() (int, int, error) { return term.GetSize(int(os.Stdout.Fd())) })
	defer ed.Hide()

	if name == "" && u.Query().Get("name") == "" {
		ed.Print("What is your name? (The server picks one for you if you only press Enter.)")
		ed.SetPrompt("name: ")
		if name, err = ed.ReadLine(); err != nil {
			return nil // Ctrl-C or Ctrl-D: nothing to leave yet
		}
		ed.Hide()
		name = strings.TrimSpace(name)
	}

	quit := signals()
	input := make(chan string)
	go func() { // waits for keys until the process ends
		for left := false; ; {
			text, err := ed.ReadLine()
			switch {
			case errors.Is(err, errInterrupt):
				quit <- os.Interrupt
			case left && err == nil:
			case left:
				return
			case err != nil:
				close(input)
			default:
				input <- text
			}
			left = left || err != nil || isExit(text)
		}
	}()
	c := &chat{
		say:   ed.Print,
		note:  ed.Print,
		state: func(ready bool) { ed.SetPrompt(map[bool]string{true: "> ", false: "(offline) > "}[ready]) },
		input: input,
		quit:  quit,
		grace: 5 * time.Second,
	}
	ed.SetPrompt("(connecting) > ")
	return c.run(u, name)
}

func signals() chan os.Signal {
	quit := make(chan os.Signal, 2)
	signal.Notify(quit, os.Interrupt, syscall.SIGTERM)
	return quit
}
