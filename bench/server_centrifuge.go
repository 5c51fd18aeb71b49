package main

import (
	"context"
	"net/http"
	"time"

	"github.com/centrifugal/centrifuge"
)

// centrifuge with its memory broker and its JSON protocol: a room is a channel, to which the
// clients subscribe and publish with the commands of its protocol. Presence, history and join
// messages are off, as by default. What is not the default:
//   - MaxMessagesInFrame -1: all that waits for a connection goes out in one frame; the
//     default is 16 messages;
//   - WriteTimeout 10 s, as the others have;
//   - ProcessCommandsOffReadLoop where connections are at rest: it takes 4 KiB off each. With 64
//     messages outstanding it took a half more CPU, so it is off there;
//   - a pool of write buffers, and for compression its cache of prepared messages, which
//     compresses a message once for all.
//
// ClientQueueMaxSize stays at 1 MB for each client, like the hub's. There is no WriteDelay: with
// 1 ms, 64 messages outstanding took it to a half of the deliveries a second that it makes
// without.
func centrifugeHandler(c serverConfig) http.Handler {
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		panic(err)
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{
			Credentials:        &centrifuge.Credentials{},
			MaxMessagesInFrame: -1,
		}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
			reply(centrifuge.SubscribeReply{}, nil)
		})
		client.OnPublish(func(_ centrifuge.PublishEvent, reply centrifuge.PublishCallback) {
			reply(centrifuge.PublishReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		panic(err)
	}
	config := centrifuge.WebsocketConfig{
		ReadBufferSize:     1024,
		UseWriteBufferPool: true,
		WriteTimeout:       10 * time.Second,

		ProcessCommandsOffReadLoop: c.AtRest,
	}
	if c.Deflate {
		config.Compression = true
		config.CompressionLevel = 1
		config.CompressionPreparedMessageCacheSize = 16 << 20
	}
	return centrifuge.NewWebsocketHandler(node, config)
}
