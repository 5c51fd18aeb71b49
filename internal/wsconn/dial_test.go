package wsconn

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/internal/memnet"
)

// A message of which nothing but the header comes is none, whatever nhooyr makes of it.
func TestDialMessageCutBehindItsHeader(t *testing.T) {
	for name, sent := range map[string]string{"text": "\x81\x05", "behind another": "\x81\x02hi\x82\x7e\x01\x00"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := memnet.Listen()
				defer l.Close()
				go func() {
					c, err := l.Accept()
					if err != nil {
						return
					}
					defer c.Close()
					r, err := http.ReadRequest(bufio.NewReader(c))
					if err != nil {
						return
					}
					sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
					_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
						"Sec-WebSocket-Accept: %s\r\n\r\n%s", base64.StdEncoding.EncodeToString(sum[:]), sent)
				}()
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: l.DialContext}}
				c, _, err := Dial(context.Background(), "ws://hub.test/", DialOptions{HTTPClient: client})
				require.NoError(t, err)
				defer c.CloseNow()
				if name != "text" {
					_, p, err := c.Read(context.Background())
					require.NoError(t, err)
					require.Equal(t, "hi", string(p))
				}
				_, p, err := c.Read(context.Background())
				var ce *CloseError
				require.ErrorAs(t, err, &ce, "got a message: %q", p)
				require.Equal(t, 1006, ce.Code)
			})
		})
	}
}
