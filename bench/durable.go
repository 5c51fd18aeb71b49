package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite", for what is bare

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/broker/sqlitebroker"
)

const (
	durablePublishers = 64
	durableTurn       = 250 * time.Millisecond
)

type durableConfig struct {
	Millis int // of each
}

type durableResult struct {
	Broker, Bare float64 // messages/s
	Batch        float64 // messages of a transaction of the broker's
}

// runDurable measures the broker and bare SQLite in turn, in a process of their own.
func (b *bench) runDurable(k kind, round int) error {
	c, err := startChild("durable", durableConfig{Millis: int(b.time.Milliseconds())})
	if err != nil {
		return err
	}
	defer c.stop()
	var r durableResult
	if err := c.answer(&r, time.Minute+4*b.time); err != nil {
		return err
	}
	b.samples.add(rowDurable, k.name, mDurable, round, r.Broker)
	b.samples.add(rowDurable, k.name, mDurableBare, round, r.Bare)
	b.samples.add(rowDurable, k.name, mDurableRatio, round, r.Broker/r.Bare)
	b.samples.add(rowDurable, k.name, mDurableBatch, round, r.Batch)
	return nil
}

// measureDurable prints a durableResult. The files are where the system has temporary ones.
func measureDurable(c durableConfig) error {
	dir, err := os.MkdirTemp("", "bench-durable")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r, err := durableIn(dir, time.Duration(c.Millis)*time.Millisecond)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func durableIn(dir string, d time.Duration) (r durableResult, err error) {
	b, err := sqlitebroker.Open(context.Background(), filepath.Join(dir, "broker.db"))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	bare, err := openBare(filepath.Join(dir, "bare.db"))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, bare.close()) }()
	p := &durableLoad{b: b}
	if err := p.publish(durableTurn); err != nil { // warms up
		return r, err
	}
	before := b.Stats()
	var times [2]time.Duration
	var counts [2]int64
	for turn := 0; times[1] < d; turn++ {
		start, acked := time.Now(), p.acked.Load()
		if err := p.publish(durableTurn); err != nil {
			return r, err
		}
		times[0] += time.Since(start)
		counts[0] += p.acked.Load() - acked
		now := b.Stats()
		batch := int((now.Messages - before.Messages + (now.Transactions-before.Transactions)/2) / (now.Transactions - before.Transactions))
		r.Batch = float64(now.Messages-before.Messages) / float64(now.Transactions-before.Transactions)

		start, inserted := time.Now(), bare.n
		for time.Since(start) < durableTurn {
			if err := bare.commit(batch); err != nil {
				return r, err
			}
		}
		times[1] += time.Since(start)
		counts[1] += bare.n - inserted
	}
	if got := int64(b.Stats().Messages); got != p.acked.Load() {
		return r, fmt.Errorf("%d messages were committed, and %d acked", got, p.acked.Load())
	}
	r.Broker = float64(counts[0]) / times[0].Seconds()
	r.Bare = float64(counts[1]) / times[1].Seconds()
	return r, nil
}

// A durableLoad publishes.
type durableLoad struct {
	b     *sqlitebroker.Broker
	next  atomic.Int64
	acked atomic.Int64
}

// publish has all publishers publish for d, each waiting for its acks.
func (l *durableLoad) publish(d time.Duration) error {
	end := time.Now().Add(d)
	errs := make(chan error, durablePublishers)
	var wg sync.WaitGroup
	for i := range durablePublishers {
		wg.Go(func() {
			m := durableMessage(i)
			for time.Now().Before(end) {
				m.ID = strconv.FormatInt(l.next.Add(1), 10)
				if _, err := l.b.Publish(context.Background(), &m); err != nil {
					errs <- err
					return
				}
				l.acked.Add(1)
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

func durableMessage(publisher int) broker.Message {
	return broker.Message{
		Room: "lobby", Kind: broker.KindText, Data: texts(smallSize)[0],
		From: broker.Member{Client: fmt.Sprint("client-", publisher), User: fmt.Sprint("user-", publisher), Name: fmt.Sprint("name-", publisher)},
	}
}

// A bareFile is SQLite and nothing else, with the broker's settings and the shape of its rows.
type bareFile struct {
	db                            *sql.DB
	conn                          *sql.Conn
	begin, message, id, committed *sql.Stmt
	messages                      [durablePublishers]broker.Message
	n                             int64
}

func openBare(path string) (*bareFile, error) {
	ctx := context.Background()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return nil, err
	}
	f := &bareFile{db: db}
	for i := range f.messages {
		f.messages[i] = durableMessage(i)
	}
	if f.conn, err = db.Conn(ctx); err != nil {
		return nil, err
	}
	_, err = f.conn.ExecContext(ctx, `
		PRAGMA auto_vacuum = INCREMENTAL;
		CREATE TABLE messages (
			room INTEGER NOT NULL, seq INTEGER NOT NULL, tag INTEGER NOT NULL, at INTEGER NOT NULL, total INTEGER NOT NULL,
			time INTEGER NOT NULL, kind INTEGER NOT NULL,
			id BLOB, client BLOB, user BLOB, name BLOB, key BLOB, data BLOB,
			PRIMARY KEY (room, seq)
		) WITHOUT ROWID;
		CREATE TABLE ids (
			n INTEGER PRIMARY KEY, key BLOB NOT NULL, payload BLOB NOT NULL,
			seq INTEGER NOT NULL, tag INTEGER NOT NULL, time INTEGER NOT NULL, at INTEGER NOT NULL
		);
		PRAGMA journal_mode = WAL;
		PRAGMA synchronous = FULL;
		PRAGMA journal_size_limit = 16777216`)
	if err != nil {
		return nil, err
	}
	for to, text := range map[**sql.Stmt]string{
		&f.begin:     "BEGIN IMMEDIATE",
		&f.message:   "INSERT INTO messages (room, seq, tag, at, total, time, kind, id, client, user, name, key, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		&f.id:        "INSERT INTO ids (n, key, payload, seq, tag, time, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
		&f.committed: "COMMIT",
	} {
		if *to, err = f.conn.PrepareContext(ctx, text); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// commit inserts so many messages and their ids in one transaction.
func (f *bareFile) commit(batch int) error {
	if _, err := f.begin.Exec(); err != nil {
		return err
	}
	var key, payload [16]byte
	for i := range batch {
		f.n++
		m := &f.messages[i%durablePublishers]
		now, tag := time.Now().UnixNano(), f.n*0x5851f42d4c957f2d
		_, err := f.message.Exec(int64(1), f.n, tag, now, f.n*300, now, int64(m.Kind), strconv.AppendInt(nil, f.n, 10), []byte(m.From.Client), []byte(m.From.User), []byte(m.From.Name), nil, m.Data)
		if err != nil {
			return err
		}
		copy(key[:], strconv.AppendInt(nil, tag, 16))
		if _, err := f.id.Exec(f.n, key[:], payload[:], f.n, tag, now, now); err != nil {
			return err
		}
	}
	_, err := f.committed.Exec()
	return err
}

func (f *bareFile) close() error { return errors.Join(f.conn.Close(), f.db.Close()) }
