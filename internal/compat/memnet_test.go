package compat

import (
	"net"
	"testing"

	"golang.org/x/net/nettest"

	"github.com/chathub-go/hub/internal/memnet"
)

// The in-memory network that the hub's own tests run on keeps what package net promises.
func TestMemnetIsANetConn(t *testing.T) {
	for name, opts := range map[string][]memnet.Option{
		"default":        nil,
		"small buffer":   {memnet.WithBuffer(7)},
		"reset on close": {memnet.WithResetOnClose()},
	} {
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				a, b := memnet.Pipe(opts...)
				return a, b, func() { a.Close(); b.Close() }, nil
			})
		})
	}
}
