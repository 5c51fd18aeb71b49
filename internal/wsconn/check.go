package wsconn

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Check does those checks of a handshake that need no socket (RFC 6455, section 4.2.1),
// and answers the request where one fails: 405 for another method than GET, 426 for a
// request that is no handshake, 400 for a bad one or none but unknown subprotocols, 403
// for a foreign origin. It tells whether to go on.
func Check(w http.ResponseWriter, r *http.Request, o *Options) (ok bool) {
	refuse := func(status int, message string) bool {
		http.Error(w, message, status)
		return false
	}
	switch {
	case r.Method == http.MethodConnect:
		return refuse(http.StatusNotImplemented, "WebSockets over HTTP/2 and HTTP/3 are not served here: use HTTP/1.1")
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET")
		return refuse(http.StatusMethodNotAllowed, "a WebSocket handshake is a GET")
	case r.Method == http.MethodHead || r.ProtoMajor != 1 || r.ProtoMinor < 1 || !isUpgrade(r):
		if r.ProtoMajor == 1 { // later versions forbid both
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
		}
		return refuse(http.StatusUpgradeRequired, howToConnect(r))
	case r.ContentLength != 0:
		return refuse(http.StatusBadRequest, "a WebSocket handshake has no body")
	case !slices.Equal(r.Header["Sec-Websocket-Version"], []string{"13"}):
		w.Header().Set("Sec-WebSocket-Version", "13")
		return refuse(http.StatusBadRequest, "Sec-WebSocket-Version must be 13")
	case !validKey(r.Header["Sec-Websocket-Key"]):
		return refuse(http.StatusBadRequest, "Sec-WebSocket-Key must be there once, 16 bytes in base64")
	case !originAllowed(r, o.Origins):
		return refuse(http.StatusForbidden, "pages of this origin may not connect here")
	}
	if offer, _ := selectSubprotocol(r, o.Subprotocols); offer == "" && r.Header["Sec-Websocket-Protocol"] != nil {
		if len(o.Subprotocols) == 0 {
			return refuse(http.StatusBadRequest, "no Sec-WebSocket-Protocol is known here")
		}
		return refuse(http.StatusBadRequest, "Sec-WebSocket-Protocol offers none that is known here: "+strings.Join(o.Subprotocols, ", "))
	}
	return true
}

func howToConnect(r *http.Request) string {
	scheme := "ws"
	if r.TLS != nil {
		scheme = "wss"
	}
	u := url.URL{Scheme: scheme, Host: r.Host, Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	return "This address speaks WebSocket (RFC 6455) over HTTP/1.1. Connect with a WebSocket client, for example:\n\n" +
		"\twscat -c '" + strings.ReplaceAll(u.String(), "'", "%27") + "'"
}

func isUpgrade(r *http.Request) bool {
	return hasToken(r.Header["Connection"], "upgrade") && hasToken(r.Header["Upgrade"], "websocket")
}

// tokens splits header fields that are lists.
func tokens(fields []string) []string {
	var all []string
	for _, f := range fields {
		for t := range strings.SplitSeq(f, ",") {
			if t = strings.TrimSpace(t); t != "" {
				all = append(all, t)
			}
		}
	}
	return all
}

func hasToken(fields []string, token string) bool {
	return slices.ContainsFunc(tokens(fields), func(t string) bool { return strings.EqualFold(t, token) })
}

func validKey(keys []string) bool {
	if len(keys) != 1 {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(keys[0])
	return err == nil && len(key) == 16
}

// originAllowed tells whether a browser's page may connect. Who sends no Origin is no browser.
func originAllowed(r *http.Request, patterns []string) bool {
	origins := r.Header["Origin"]
	if len(origins) == 0 || slices.Contains(patterns, "*") {
		return true
	}
	if len(origins) > 1 {
		return false
	}
	u, err := url.Parse(origins[0])
	if err != nil || u.Host == "" { // "null" has no host: a sandboxed frame, a local file
		return false
	}
	host := strings.ToLower(u.Host)
	return strings.EqualFold(host, r.Host) || slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(strings.ToLower(p), host)
		return ok && err == nil
	})
}

// selectSubprotocol returns the first of ours that the client offers, in the client's
// spelling and in ours.
func selectSubprotocol(r *http.Request, ours []string) (offer, known string) {
	offers := tokens(r.Header["Sec-Websocket-Protocol"])
	for _, known := range ours {
		for _, offer := range offers {
			if strings.EqualFold(offer, known) {
				return offer, known
			}
		}
	}
	return "", ""
}
