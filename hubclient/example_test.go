package hubclient_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/hubclient"
)

func Example() {
	ctx := context.Background()
	rooms := hub.New()
	mux := http.NewServeMux()
	mux.Handle("/room/{room}", rooms)
	server := httptest.NewServer(mux)
	defer server.Close()
	defer rooms.Shutdown(ctx)

	c, err := hubclient.Dial(ctx, server.URL+"/room/lobby", hubclient.WithName("alice"))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	receipt, err := c.Publish(ctx, hubclient.Text("hello"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("kept at", receipt.Seq)
	for e := range c.Events() {
		if e.Type == hubclient.EventMessage {
			fmt.Println(e.Message.From.Name+":", e.Message.Text())
			break
		}
	}
	// Output:
	// kept at 1
	// alice: hello
}

// Messages that are published in a row need not wait for each other.
func ExampleClient_PublishAsync() {
	ctx := context.Background()
	rooms := hub.New()
	mux := http.NewServeMux()
	mux.Handle("/room/{room}", rooms)
	server := httptest.NewServer(mux)
	defer server.Close()
	defer rooms.Shutdown(ctx)

	c, err := hubclient.Dial(ctx, server.URL+"/room/lobby")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	var sent []*hubclient.Publication
	for i := range 3 {
		p, err := c.PublishAsync(ctx, hubclient.Text(fmt.Sprint("message ", i)))
		if err != nil {
			log.Fatal(err)
		}
		sent = append(sent, p)
	}
	for _, p := range sent {
		receipt, err := p.Wait(ctx)
		fmt.Println(receipt.Seq, err)
	}
	// Output:
	// 1 <nil>
	// 2 <nil>
	// 3 <nil>
}
