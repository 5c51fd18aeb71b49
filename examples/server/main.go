// Command server is a chat server: one hub behind an http.Server.
//
//	go run ./examples/server [-addr :8000]
//
// /room is the room lobby and /room/{room} any room, for WebSocket clients of both
// doors; / is a page to chat with, and /healthz says if the server takes clients.
// SIGINT or SIGTERM drains it: what was accepted reaches the members, then each gets a
// close frame. A second one doesn't wait.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/examples/internal/page"
)

const (
	drainTimeout = 10 * time.Second // for the hub's clients
	closeTimeout = 5 * time.Second  // for other requests

	deflateFrom = 512 // bytes, as hub.WithCompression advises
)

type settings struct {
	addr    string
	rate    float64
	history int
	origins []string
	lang    string
	quiet   bool
	deflate bool
}

func main() {
	err := run(os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "server: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	log := newLog(os.Stderr, s.quiet)

	stop := make(chan os.Signal, 2)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		return cantListen(s.addr, err)
	}
	h := newHub(s, log)
	var draining atomic.Bool
	srv := &http.Server{
		Handler:           handler(h, &draining),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second, // these two end with the upgrade to WebSocket
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	log.Info("listening", "addr", listener.Addr().String())

	select {
	case err := <-failed:
		return err
	case sig := <-stop:
		log.Info("draining", "signal", sig.String(), "clients", h.Stats().Clients)
	}
	draining.Store(true)
	forced, force := context.WithCancelCause(context.Background())
	go func() { force(secondSignal(stop)) }()
	return shutdown(forced, h, srv)
}

// secondSignal returns when someone does not want to wait. What comes together with
// the first signal is that one again: timeout(1), for one, signals a process and then its group.
func secondSignal(stop <-chan os.Signal) error {
	first := time.Now()
	for range stop {
		if time.Since(first) > 250*time.Millisecond {
			break
		}
	}
	return errors.New("a second signal: not waiting for clients")
}

// shutdown drains the hub first: its clients are no longer connections that the
// http.Server knows of, and those who come meanwhile get 503.
func shutdown(forced context.Context, h *hub.Hub, srv *http.Server) error {
	ctx, cancel := context.WithTimeout(forced, drainTimeout)
	defer cancel()
	err := h.Shutdown(ctx)

	ctx, cancel = context.WithTimeout(forced, closeTimeout)
	defer cancel()
	if srv.Shutdown(ctx) != nil {
		srv.Close()
	}
	if forced.Err() != nil {
		return context.Cause(forced)
	}
	return err
}

func newLog(w io.Writer, quiet bool) *slog.Logger {
	level := slog.LevelInfo
	if quiet {
		level = slog.LevelError
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

func newHub(s settings, log *slog.Logger) *hub.Hub {
	text := hub.DefaultText()
	if s.lang == "ja" {
		text = hub.JapaneseText()
	}
	opts := []hub.HubOption{
		hub.WithPublishRate(s.rate, max(1, int(2*s.rate))),
		hub.WithHistory(s.history, time.Hour),
		hub.WithOrigins(s.origins...),
		hub.WithTextFormat(text),
		hub.WithLogger(log),
	}
	if s.deflate {
		opts = append(opts, hub.WithCompression(deflateFrom))
	}
	return hub.New(opts...)
}

// handler is the server's routes.
func handler(h *hub.Hub, draining *atomic.Bool) http.Handler {
	lobby, err := h.Room("lobby")
	if err != nil {
		panic(err) // the name is valid, and the hub open
	}
	mux := http.NewServeMux()
	mux.Handle("/room", lobby)
	mux.Handle("/room/{room}", h)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if draining.Load() {
			http.Error(w, "draining", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /{$}", page.Serve)
	return mux
}

// parse reads the flags; each mistake is one line.
func parse(args []string) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&s.addr, "addr", ":8000", "`host:port` to listen on")
	flags.Float64Var(&s.rate, "rate", 20, "`publishes` a second for one client; 0: no limit")
	flags.IntVar(&s.history, "history", 256, "`messages` that a room keeps, for an hour")
	flags.Func("origin", "`host` pattern of pages elsewhere that may connect, such as *.example.com; several: again, or with commas", func(v string) error {
		for o := range strings.SplitSeq(v, ",") {
			if o = strings.TrimSpace(o); o != "" {
				s.origins = append(s.origins, o)
			}
		}
		return nil
	})
	flags.StringVar(&s.lang, "lang", "en", "`language` of joins and leaves on the plain-text door: en or ja")
	flags.BoolVar(&s.deflate, "compress", false, fmt.Sprintf("deflate messages of %d bytes and more, for clients that can read it", deflateFrom))
	flags.BoolVar(&s.quiet, "quiet", false, "log errors only")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(os.Stdout)
			fmt.Println("usage: server [flags]")
			flags.PrintDefaults()
		}
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("what does %q mean? see -help", flags.Arg(0))
	}
	return s, s.check()
}

func (s settings) check() error {
	for _, o := range s.origins {
		if _, err := path.Match(o, ""); err != nil || strings.Contains(o, "/") {
			return fmt.Errorf("-origin %q: a host such as example.com or *.example.com is wanted", o)
		}
	}
	switch {
	case math.IsNaN(s.rate) || s.rate < 0 || s.rate > 1e6:
		return fmt.Errorf("-rate %v: 0 to 1,000,000 a second", s.rate)
	case s.history < 0 || s.history > 1e6:
		return fmt.Errorf("-history %d: 0 to 1,000,000 messages", s.history)
	case s.lang != "en" && s.lang != "ja":
		return fmt.Errorf("-lang %q: en or ja", s.lang)
	}
	return nil
}

// cantListen leaves out of the error what tells nothing to a person.
func cantListen(addr string, err error) error {
	var op *net.OpError
	var sys *os.SyscallError
	switch {
	case errors.As(err, &sys):
		err = sys.Err
	case errors.As(err, &op):
		err = op.Err
	}
	return fmt.Errorf("can't listen on %s: %w", addr, err)
}
