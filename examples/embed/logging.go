package main

import (
	"log/slog"
	"net/http"
	"time"
)

// logging writes a line for each request. A WebSocket's line comes with its upgrade
// (101): the hub's ServeHTTP does not stay for the conversation.
func logging(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(rec, r)
		log.Info("request", "method", r.Method, "path", r.URL.Path, "status", rec.status, "took", time.Since(begin))
	})
}

// A recorder notes a response's status. It is no http.Hijacker; Unwrap is what lets
// http.ResponseController, and so the hub, reach the one below.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
