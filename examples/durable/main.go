// Command durable is a chat server whose rooms survive it: a hub on a SQLite file.
//
//	cd examples/durable && go run . [-addr :8000] [-db chat.db]
//
// /room is the room lobby and /room/{room} any room, for WebSocket clients of both doors. Talk to
// it with the terminal client, from the root of the repository:
//
//	go run ./examples/cli -name alice
//
// Stop the server, with Ctrl-C or with kill -9, and start it again: every client that comes back with its
// cursor is told "recovered" and gets what it missed, a publish that is repeated because its ack was lost has
// one effect, and who is new sees the last messages. What was acked is in the file.
//
// SIGINT or SIGTERM drains it: what was accepted reaches the members, then each gets a close frame, and
// the file is closed. A second one doesn't wait for clients.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/broker/sqlitebroker"
)

const (
	drainTimeout = 10 * time.Second // for the hub's clients
	closeTimeout = 5 * time.Second  // for other requests
)

type settings struct {
	addr, db string
	history  int
	age      time.Duration
}

func main() {
	err := run(os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "durable: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) (err error) {
	s, err := parse(args)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 2)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("can't listen: %w", err)
	}
	b, err := sqlitebroker.Open(context.Background(), s.db, sqlitebroker.WithRetention(s.history, s.age))
	if err != nil {
		listener.Close()
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }() // the last of all
	h := hub.New(hub.WithBroker(b), hub.WithLogger(slog.Default()))
	srv := &http.Server{Handler: handler(h), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	fmt.Printf("listening on http://%s, rooms in %s\n", listener.Addr(), s.db)

	forced, force := context.WithCancel(context.Background())
	defer force()
	select {
	case err := <-failed:
		force()
		return errors.Join(err, shutdown(forced, h, srv))
	case <-stop:
		fmt.Println("draining; once more to not wait")
	}
	go func() {
		<-stop
		force()
	}()
	return shutdown(forced, h, srv)
}

// shutdown drains the hub, whose clients the http.Server does not know, and then the server.
func shutdown(forced context.Context, h *hub.Hub, srv *http.Server) error {
	ctx, cancel := context.WithTimeout(forced, drainTimeout)
	defer cancel()
	err := h.Shutdown(ctx)
	ctx, cancel = context.WithTimeout(forced, closeTimeout)
	defer cancel()
	if srv.Shutdown(ctx) != nil {
		srv.Close()
	}
	return err
}

func handler(h *hub.Hub) http.Handler {
	lobby, err := h.Room("lobby")
	if err != nil {
		panic(err) // the name is valid, and the hub open
	}
	mux := http.NewServeMux()
	mux.Handle("/room", lobby)
	mux.Handle("/room/{room}", h)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "A chat server. From the root of the repository:\n\n  go run ./examples/cli -addr %s -name alice\n", r.Host)
	})
	return mux
}

// parse reads the flags; each mistake is one line.
func parse(args []string) (s settings, err error) {
	flags := flag.NewFlagSet("durable", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&s.addr, "addr", ":8000", "`host:port` to listen on; port 0 is a free one")
	flags.StringVar(&s.db, "db", "chat.db", "`path` of the file with the rooms, made where there is none")
	flags.IntVar(&s.history, "history", 1000, "`messages` that a room keeps")
	flags.DurationVar(&s.age, "age", 7*24*time.Hour, "for how `long` a room keeps them; 0: no bound")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(os.Stdout)
			fmt.Println("usage: durable [flags]")
			flags.PrintDefaults()
		}
		return s, err
	}
	switch {
	case flags.NArg() > 0:
		return s, fmt.Errorf("what does %q mean? see -help", flags.Arg(0))
	case s.history < 0 || s.age < 0:
		return s, errors.New("-history and -age: 0 or more")
	}
	return s, nil
}
