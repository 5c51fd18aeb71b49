package main

import (
	"net/http"
	"time"

	"github.com/chathub-go/hub"
)

// The hub as a service has it, with these options:
//   - no rate limit: the load publishes as fast as it is answered;
//   - RawText: the plain door sends the message alone, as the others do, so that all put the
//     same bytes on the wire;
//   - rooms stay open, and all else is the default: 256 messages of history are kept, which
//     no peer does here.
func hubHandler(c serverConfig) http.Handler {
	options := []hub.HubOption{
		hub.WithPublishRate(0, 0),
		hub.WithTextFormat(hub.RawText()),
		hub.WithIdle(time.Hour),
	}
	if c.Deflate {
		options = append(options, hub.WithCompression(deflateThreshold))
	}
	return hub.New(options...)
}
