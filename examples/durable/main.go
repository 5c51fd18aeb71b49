// Command durable is a chat server whose rooms survive it: what was acked is kept in one SQLite file.
//
//	cd examples/durable && go run . [-addr :8000] [-db chat.db]
//
// Open the page that it names, or run `go run ./examples/cli -name alice` at the root of the repository, and talk. Then
// stop the server, with Ctrl-C or kill -9, and start it again: every client comes back by itself, with all that it missed
// ("recovered"), and what nobody had an ack for is sent again, once.
//
// SIGINT or SIGTERM drains it: what was accepted reaches the members, then each gets a close frame.
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
	"github.com/chathub-go/hub/examples/internal/page"
)

const drainTimeout = 10 * time.Second

type settings struct {
	addr, db  string
	messages  int
	roomBytes int
	age       time.Duration
	rate      float64
}

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "durable: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) (err error) {
	s, err := parse(args)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	rooms, err := sqlitebroker.Open(context.Background(), s.db, sqlitebroker.WithRetention(s.messages, s.age), sqlitebroker.WithRoomBytes(s.roomBytes))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rooms.Close()) }()
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("can't listen: %w", err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	h := hub.New(hub.WithBroker(rooms), hub.WithPublishRate(s.rate, max(1, int(2*s.rate))), hub.WithLogger(log))
	srv := &http.Server{
		Handler:           routes(h),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	log.Info("listening", "addr", listener.Addr().String(), "db", s.db)

	select {
	case err = <-failed:
	case sig := <-stop:
		signal.Stop(stop) // a second one does not wait
		log.Info("draining", "signal", sig.String(), "clients", h.Stats().Clients)
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	err = errors.Join(err, h.Shutdown(ctx)) // then the server's, which knows nothing of clients; then the broker's
	if srv.Shutdown(ctx) != nil {
		srv.Close()
	}
	return err
}

func routes(h *hub.Hub) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/room/{room}", h)
	if lobby, err := h.Room("lobby"); err == nil {
		mux.Handle("/room", lobby)
	}
	mux.HandleFunc("GET /{$}", page.Serve)
	return mux
}

// parse reads the flags; each mistake is one line.
func parse(args []string) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("durable", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&s.addr, "addr", ":8000", "`host:port` to listen on")
	flags.StringVar(&s.db, "db", "chat.db", "`file` of the rooms; made where there is none")
	flags.IntVar(&s.messages, "history", 100_000, "`messages` that a room keeps")
	flags.IntVar(&s.roomBytes, "bytes", 256<<20, "`bytes` that a room keeps")
	flags.DurationVar(&s.age, "age", 30*24*time.Hour, "how long a room keeps a message; 0: for ever")
	flags.Float64Var(&s.rate, "rate", 20, "`publishes` a second for one client; 0: no limit")
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
	case s.messages < 0 || s.roomBytes < 1 || s.age < 0:
		return s, errors.New("-history, -bytes and -age can't be negative, -bytes not 0")
	case !(s.rate >= 0 && s.rate <= 1e6):
		return s, fmt.Errorf("-rate %v: 0 to 1,000,000 a second", s.rate)
	}
	return s, nil
}
