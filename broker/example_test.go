package broker_test

import (
	"context"
	"fmt"
	"time"

	"github.com/chathub-go/hub/broker"
)

func ExampleNewMemory() {
	ctx := context.Background()
	b := broker.NewMemory(broker.WithRetention(2, time.Hour))
	defer func() { _ = b.Close() }()

	start, _ := b.Head(ctx, "lobby")
	for _, text := range []string{"one", "two", "three"} {
		_, _ = b.Publish(ctx, &broker.Message{Room: "lobby", Kind: broker.KindText, Data: []byte(text)})
	}
	page, _ := b.Since(ctx, "lobby", start, 100)
	fmt.Println(page.Verdict, page.Gap.Missed)
	for _, m := range page.Messages {
		fmt.Println(m.Cursor.Seq, string(m.Data))
	}
	// Output:
	// gap 1
	// 2 two
	// 3 three
}

// Events are taken when Ready says so, in one goroutine.
func ExampleSubscription() {
	ctx := context.Background()
	b := broker.NewMemory()
	sub, _ := b.Subscribe(ctx, "lobby")
	_, _ = b.Publish(ctx, &broker.Message{Room: "lobby", ID: "1", Data: []byte("hello")})
	_, _ = b.Publish(ctx, &broker.Message{Room: "lobby", ID: "1", Data: []byte("hello")}) // a repeat
	_ = b.Close()

	var events []broker.Event
	for {
		<-sub.Ready()
		var err error
		if events, err = sub.Take(events[:0], 64); err != nil {
			fmt.Println(err)
			return
		}
		for _, e := range events {
			if e.Type == broker.EventMessage {
				fmt.Println(e.Message.Cursor.Seq, string(e.Message.Data))
			}
		}
	}
	// Output:
	// 1 hello
	// hub: broker closed
}
