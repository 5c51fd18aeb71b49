package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/internal/leaktest"
	"github.com/chathub-go/hub/internal/wsconn"
)

func TestMain(m *testing.M) {
	os.Exit(leaktest.Run(m))
}

func start(t *testing.T) (url string) {
	s := newService(slog.New(slog.DiscardHandler))
	srv := httptest.NewServer(s.handler())
	t.Cleanup(func() {
		require.NoError(t, s.hub.Shutdown(context.Background()))
		srv.Close()
	})
	return srv.URL
}

// A browser keeps cookies.
func newBrowser(t *testing.T) *http.Client {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &http.Client{Jar: jar}
}

func post(t *testing.T, c *http.Client, to string, form url.Values) (status int, body string) {
	resp, err := c.PostForm(to, form)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

func dial(t *testing.T, c *http.Client, to string) *wsconn.ClientConn {
	conn, _, err := wsconn.Dial(t.Context(), to, wsconn.DialOptions{HTTPClient: c})
	require.NoError(t, err)
	t.Cleanup(conn.CloseNow)
	return conn
}

func read(t *testing.T, conn *wsconn.ClientConn) string {
	_, p, err := conn.Read(t.Context())
	require.NoError(t, err)
	return string(p)
}

func TestService(t *testing.T) {
	at := start(t)
	alice, bob := newBrowser(t), newBrowser(t)
	for name, c := range map[string]*http.Client{"alice": alice, "bob": bob} {
		status, body := post(t, c, at+"/login", url.Values{"name": {name}})
		require.Equal(t, 200, status)
		require.Contains(t, body, "Hello, "+name)
	}

	a := dial(t, alice, at+"/chat/general?name=somebody") // the service knows better
	require.Equal(t, "* alice joined", read(t, a))
	b := dial(t, bob, at+"/chat/general")
	require.Equal(t, "* bob joined", read(t, b))
	require.Equal(t, "* bob joined", read(t, a))
	require.NoError(t, b.Write(t.Context(), wsconn.OpText, []byte("hello")))
	require.Equal(t, "bob: hello", read(t, a))

	tab := dial(t, bob, at+"/chat/general") // the same user: joins once, leaves once
	require.NoError(t, tab.Write(t.Context(), wsconn.OpText, []byte("two tabs")))
	require.Equal(t, "bob: two tabs", read(t, tab)) // it is in the room
	require.Equal(t, "bob: two tabs", read(t, a))
	status, _ := post(t, alice, at+"/announce", url.Values{"room": {"general"}, "text": {"lunch"}})
	require.Equal(t, http.StatusNoContent, status)
	require.Equal(t, "* alice announces: lunch", read(t, a))
	require.Equal(t, "* alice announces: lunch", read(t, tab))
	require.NoError(t, tab.Close(1000, ""))
	go b.Close(1000, "")
	require.Equal(t, "* bob left", read(t, a))
}

func TestStrangers(t *testing.T) {
	at := start(t)
	nobody := newBrowser(t)
	_, resp, err := wsconn.Dial(t.Context(), at+"/chat/general?name=alice", wsconn.DialOptions{})
	require.Error(t, err)
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	status, _ := post(t, nobody, at+"/announce", url.Values{"room": {"general"}, "text": {"spam"}})
	require.Equal(t, http.StatusUnauthorized, status)
	for _, name := range []string{"", "a:b", "a b", strings.Repeat("x", 33)} {
		status, _ = post(t, nobody, at+"/login", url.Values{"name": {name}})
		require.Equal(t, http.StatusBadRequest, status, name)
	}

	status, _ = post(t, nobody, at+"/login", url.Values{"name": {"mallory"}})
	require.Equal(t, 200, status)
	status, _ = post(t, nobody, at+"/announce", url.Values{"room": {"a/b"}, "text": {"x"}})
	require.Equal(t, http.StatusBadRequest, status)

	req, err := http.NewRequest("POST", at+"/announce", strings.NewReader("room=general&text=spam"))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "cross-site") // another page has its visitors post here
	other, err := nobody.Do(req)
	require.NoError(t, err)
	other.Body.Close()
	require.Equal(t, http.StatusForbidden, other.StatusCode)
}

// TestCookie: nobody makes or changes one.
func TestCookie(t *testing.T) {
	l := newLogin()
	rec := httptest.NewRecorder()
	req := httptest.NewRequest("POST", "/login", strings.NewReader("name=alice"))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	l.handle(rec, req)
	good := rec.Result().Cookies()[0]
	require.True(t, good.HttpOnly)
	user := func(value string) (string, bool) {
		r := httptest.NewRequest("GET", "/", nil)
		r.AddCookie(&http.Cookie{Name: cookieName, Value: value})
		return l.user(r)
	}
	name, ok := user(good.Value)
	require.True(t, ok)
	require.Equal(t, "alice", name)

	parts := strings.Split(good.Value, ".")
	old := parts[0] + ".1"
	for what, value := range map[string]string{
		"another name":      "Ym9i." + parts[1] + "." + parts[2],
		"a later end":       parts[0] + ".9999999999." + parts[2],
		"no signature":      parts[0] + "." + parts[1] + ".",
		"nothing":           "",
		"dots":              "..",
		"ended":             old + "." + l.sign(old),
		"of another server": func() string { o := newLogin(); v := parts[0] + "." + parts[1]; return v + "." + o.sign(v) }(),
	} {
		_, ok := user(value)
		require.False(t, ok, what)
	}
}
