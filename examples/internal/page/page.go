// Package page is the page to chat with that the examples' servers have.
package page

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"net/http"
)

// html is the whole page: nothing else is loaded.
//
//go:embed index.html
var html []byte

// policy is the page's Content-Security-Policy: its own script and style, each by its
// hash, and connections to where it came from.
var policy = fmt.Sprintf("default-src 'none'; script-src '%s'; style-src '%s'; img-src data:; connect-src 'self'; "+
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'", hashOf("script"), hashOf("style"))

// hashOf is the CSP hash of the content of the page's one element of that name.
func hashOf(element string) string {
	_, rest, _ := bytes.Cut(html, []byte("<"+element+">"))
	content, _, ok := bytes.Cut(rest, []byte("</"+element+">"))
	if !ok {
		panic("index.html has no <" + element + ">")
	}
	sum := sha256.Sum256(content)
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// Serve answers with the page. It talks to the rooms below /room of the same host.
func Serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	w.Write(html)
}
