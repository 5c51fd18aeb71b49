package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	cookieName = "user"
	loginTime  = 12 * time.Hour
)

// A login says who a request is from: a cookie holds the name and an end, signed with
// a key of this process. A real service would ask for a password, too.
type login struct{ key [32]byte }

func newLogin() (l login) {
	rand.Read(l.key[:])
	return l
}

// handle logs a user in.
func (l *login) handle(w http.ResponseWriter, r *http.Request) {
	user := strings.TrimSpace(r.FormValue("name"))
	if !valid(user) {
		http.Error(w, "a name has 1 to 32 letters and digits", http.StatusBadRequest)
		return
	}
	end := time.Now().Add(loginTime)
	value := base64.RawURLEncoding.EncodeToString([]byte(user)) + "." + strconv.FormatInt(end.Unix(), 10)
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: value + "." + l.sign(value), Path: "/", Expires: end,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: r.TLS != nil,
	})
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// user returns who a request is from.
func (l *login) user(r *http.Request) (name string, ok bool) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return "", false
	}
	i := strings.LastIndexByte(cookie.Value, '.')
	if i < 0 {
		return "", false
	}
	value, signature := cookie.Value[:i], cookie.Value[i+1:]
	if !hmac.Equal([]byte(signature), []byte(l.sign(value))) {
		return "", false
	}
	encoded, end, _ := strings.Cut(value, ".") // signed: it is what handle wrote
	seconds, err := strconv.ParseInt(end, 10, 64)
	if err != nil || time.Now().Unix() > seconds {
		return "", false
	}
	b, err := base64.RawURLEncoding.DecodeString(encoded)
	return string(b), err == nil
}

func (l *login) sign(value string) string {
	mac := hmac.New(sha256.New, l.key[:])
	mac.Write([]byte(value))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func valid(user string) bool {
	for _, r := range user {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return false
		}
	}
	return user != "" && len(user) <= 32
}
