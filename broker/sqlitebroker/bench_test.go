package sqlitebroker

import (
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/chathub-go/hub/broker"
)

// An operation is one acked publish of 128 bytes with an ID.
func BenchmarkPublish(b *testing.B) {
	for _, publishers := range []int{1, 8, 64, 512} {
		for _, rooms := range []int{1, 64} {
			b.Run(fmt.Sprintf("publishers=%d/rooms=%d", publishers, rooms), func(b *testing.B) {
				b.ReportAllocs()
				br, err := Open(ctx, filepath.Join(b.TempDir(), "chat.db"))
				if err != nil {
					b.Fatal(err)
				}
				defer br.Close()
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for p := range publishers {
					wg.Go(func() {
						m := broker.Message{Room: "room-" + strconv.Itoa(p%rooms), From: broker.Member{Client: "client", User: "user-" + strconv.Itoa(p), Name: "Name"}, Kind: broker.KindText, Data: make([]byte, 128)}
						for {
							n := next.Add(1)
							if n > int64(b.N) {
								return
							}
							m.ID = strconv.FormatInt(n, 10)
							if _, err := br.Publish(ctx, &m); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "publishes/s")
			})
		}
	}
}
