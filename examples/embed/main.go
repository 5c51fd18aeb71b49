// Command embed is a service that existed before the hub: it has its own mux, its own
// login and its own middleware. The hub joins it under /chat/{room}, with the users that
// the service knows, and the service's other handlers talk to its rooms.
//
//	go run ./examples/embed [-addr localhost:8001]
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/chathub-go/hub"
)

//go:embed page.html
var pageSource string

var page = template.Must(template.New("page").Parse(pageSource))

type service struct {
	hub   *hub.Hub
	login login
	log   *slog.Logger
}

func main() {
	addr := flag.String("addr", "localhost:8001", "`host:port` to listen on")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "embed: what does %q mean? see -help\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	s := newService(slog.Default())
	srv := &http.Server{Addr: *addr, Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.hub.Shutdown(ctx) // first: http.Server does not know the hub's connections
		srv.Shutdown(ctx)
	}()
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		s.log.Error("can't listen", "err", err)
		os.Exit(1)
	}
	s.log.Info("listening", "url", "http://"+listener.Addr().String())
	if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		s.log.Error("stopped", "err", err)
		os.Exit(1)
	}
	<-drained // Serve returns when Shutdown begins
}

func newService(log *slog.Logger) *service {
	return &service{hub: hub.New(hub.WithLogger(log)), login: newLogin(), log: log}
}

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.index)
	mux.HandleFunc("POST /login", s.login.handle)
	mux.HandleFunc("GET /chat/{room}", s.chat)
	mux.HandleFunc("POST /announce", s.announce)
	return logging(s.log, http.NewCrossOriginProtection().Handler(mux))
}

// chat lets a user of the service into a room: who it is comes from the cookie, and
// nothing that the request's URL says about it counts.
func (s *service) chat(w http.ResponseWriter, r *http.Request) {
	user, ok := s.login.user(r)
	if !ok {
		http.Error(w, "log in first", http.StatusUnauthorized)
		return
	}
	room, err := s.hub.Room(r.PathValue("room"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	room.NewClient(hub.WithUser(user), hub.WithName(user)).ServeHTTP(w, r)
}

// announce is an ordinary handler that says something in a room.
func (s *service) announce(w http.ResponseWriter, r *http.Request) {
	user, ok := s.login.user(r)
	if !ok {
		http.Error(w, "log in first", http.StatusUnauthorized)
		return
	}
	room, err := s.hub.Room(r.FormValue("room"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if _, err := room.Publish(r.Context(), hub.Text(user+" announces: "+r.FormValue("text"))); err != nil {
		s.log.Error("announce", "room", room.Name(), "err", err)
		http.Error(w, "not announced", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *service) index(w http.ResponseWriter, r *http.Request) {
	user, _ := s.login.user(r)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := page.Execute(w, user); err != nil {
		s.log.Error("page", "err", err)
	}
}
