package compat

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	chimw "github.com/go-chi/chi/v5/middleware"
	"github.com/labstack/echo/v4"
	echomw "github.com/labstack/echo/v4/middleware"
	"github.com/stretchr/testify/require"
)

// A target is where a hub's room can be reached.
type target struct {
	url   string         // ws:// or wss://, up to the room
	roots *x509.CertPool // for wss
	pem   string         // the same

	deflate bool // clients offer permessage-deflate
}

// A mount serves a hub under /chat/{room}, until the test ends.
type mount func(t *testing.T, h http.Handler) target

var mounts = map[string]mount{
	"http.Server":           mountServer,
	"three wrappers":        mountWrapped,
	"TLS":                   mountTLS,
	"TLS beside HTTP/2":     mountHTTP2,
	"gin":                   mountGin,
	"echo":                  mountEcho,
	"chi":                   mountChi,
	"httputil.ReverseProxy": mountReverseProxy,
	"nginx":                 mountNginx,
}

func at(s *httptest.Server) target {
	to := target{url: "ws" + strings.TrimPrefix(s.URL, "http") + "/chat/lobby"}
	if cert := s.Certificate(); cert != nil {
		to.roots = x509.NewCertPool()
		to.roots.AddCert(cert)
		to.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return to
}

func serve(t *testing.T, h http.Handler) target {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return at(s)
}

func mux(h http.Handler) http.Handler {
	m := http.NewServeMux()
	m.Handle("/chat/{room}", h)
	return m
}

// mountServer is a server as a service makes it, with timeouts.
func mountServer(t *testing.T, h http.Handler) target {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &http.Server{
		Handler:           mux(h),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	return target{url: "ws://" + l.Addr().String() + "/chat/lobby"}
}

// An unwrapper is what a middleware puts in the place of the ResponseWriter: of all that the inner
// one can do it offers Unwrap alone.
type unwrapper struct{ inner http.ResponseWriter }

func (u unwrapper) Header() http.Header         { return u.inner.Header() }
func (u unwrapper) Write(p []byte) (int, error) { return u.inner.Write(p) }
func (u unwrapper) WriteHeader(code int)        { u.inner.WriteHeader(code) }
func (u unwrapper) Unwrap() http.ResponseWriter { return u.inner }

func wrapped(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(unwrapper{w}, r)
	})
}

func mountWrapped(t *testing.T, h http.Handler) target {
	return serve(t, wrapped(wrapped(wrapped(mux(h)))))
}

func mountTLS(t *testing.T, h http.Handler) target {
	s := httptest.NewTLSServer(mux(h))
	t.Cleanup(s.Close)
	return at(s)
}

func mountHTTP2(t *testing.T, h http.Handler) target {
	s := httptest.NewUnstartedServer(mux(h))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return at(s)
}

type ginWrapper struct{ gin.ResponseWriter }

func mountGin(t *testing.T, h http.Handler) target {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.Use(gin.LoggerWithWriter(io.Discard), gin.RecoveryWithWriter(io.Discard))
	e.Use(func(c *gin.Context) {
		c.Writer = ginWrapper{c.Writer}
		c.Next()
	})
	e.GET("/chat/:room", gin.WrapH(h))
	return serve(t, e)
}

func mountEcho(t *testing.T, h http.Handler) target {
	e := echo.New()
	e.Use(
		echomw.RequestLoggerWithConfig(echomw.RequestLoggerConfig{
			LogStatus:     true,
			LogValuesFunc: func(echo.Context, echomw.RequestLoggerValues) error { return nil },
		}),
		echomw.Recover(),
		echomw.BodyDump(func(echo.Context, []byte, []byte) {}), // wraps the writer
		echo.WrapMiddleware(wrapped),
	)
	e.GET("/chat/:room", echo.WrapHandler(h))
	return serve(t, e)
}

func mountChi(t *testing.T, h http.Handler) target {
	r := chi.NewRouter()
	logger := &chimw.DefaultLogFormatter{Logger: log.New(io.Discard, "", 0), NoColor: true}
	r.Use(
		chimw.RequestID,
		chimw.RequestLogger(logger), // wraps the writer
		chimw.Recoverer,
		chimw.Compress(5), // wraps it again
		chimw.Timeout(time.Minute),
	)
	r.Handle("/chat/{room}", h)
	return serve(t, r)
}

func mountReverseProxy(t *testing.T, h http.Handler) target {
	backend := httptest.NewServer(mux(h))
	t.Cleanup(backend.Close)
	to, err := url.Parse(backend.URL)
	require.NoError(t, err)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return serve(t, &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // the hub compares it with the page's origin
		},
	})
}
