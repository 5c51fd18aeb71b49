package sqlitebroker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/chathub-go/hub/broker"
)

// readers is how many may read the file at a time, beside the writer.
const readers = 4

// Open opens the file, or makes it where there is none; its folder has to be there. ctx bounds Open
// alone. Where the file can't be used, the error says so: [ErrInUse], [ErrNewer], [ErrForeign], or what the
// disk said.
func Open(ctx context.Context, path string, opts ...Option) (*Broker, error) {
	o := defaults()
	for _, opt := range opts {
		opt(&o)
	}
	b, err := open(ctx, path, o, migrations)
	if code(err) == codeCorrupt && !errors.Is(err, ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, &openError{path, err}
	}
	return b, nil
}

// An openError says the package's name once, also where what is wrong is one of its own errors.
type openError struct {
	path string
	err  error
}

func (e *openError) Error() string {
	return fmt.Sprintf("hub: sqlitebroker: open %q: %s", e.path, strings.TrimPrefix(e.err.Error(), "hub: sqlitebroker: "))
}

func (e *openError) Unwrap() error { return e.err }

func open(ctx context.Context, path string, o options, migrations []string) (b *Broker, err error) {
	if path == "" || strings.HasPrefix(path, ":memory:") || strings.HasPrefix(path, "file:") {
		return nil, errors.New("the path of a file is wanted")
	}
	if path, err = resolve(path); err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: no regular file", ErrForeign)
	}
	b = &Broker{
		o: o, path: path, start: time.Now(),
		own:     make(map[string]retention),
		readers: make(chan *reader, readers),
		closing: make(chan struct{}),
	}
	var closers []func() error // of what is open, if Open fails
	defer func() {
		if err != nil {
			for _, c := range closers {
				_ = c()
			}
		}
	}()
	if b.lock, err = lock(ctx, path+"-lock"); err != nil {
		return nil, err
	}
	closers = append(closers, b.lock.close)
	if err := create(path); err != nil {
		return nil, err
	}
	b.writer = newWriter(b)
	closers = append([]func() error{b.writer.conn.close}, closers...)
	if err := b.writer.conn.open(ctx, path, "PRAGMA busy_timeout = 10000", "PRAGMA foreign_keys = OFF"); err != nil {
		return nil, err
	}
	if err := migrate(ctx, b.writer.conn.Conn, migrations); err != nil {
		return nil, err
	}
	if err := b.writer.begin(ctx); err != nil {
		return nil, err
	}
	for range readers {
		r := &reader{b: b}
		closers = append([]func() error{r.conn.close}, closers...)
		if err := r.open(ctx); err != nil {
			return nil, err
		}
		b.readers <- r
	}
	b.local = broker.NewLocal(broker.WithWaiting(o.waitingEvents, o.waitingBytes), broker.WithRooms(o.rooms))
	go b.writer.run()
	return b, nil
}

// resolve makes of all paths to a file the same one, so that they have one lock.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	resolved, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return resolved, err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// lock keeps every other Broker, of this process or another, off the file. The lock is one of
// SQLite's, on an empty file beside it, so it ends with the process and is the same on every system.
func lock(ctx context.Context, path string) (*conn, error) {
	creating.Lock()
	defer creating.Unlock()
	if err := create(path); err != nil {
		return nil, err
	}
	c := new(conn)
	err := c.open(ctx, path, "PRAGMA journal_mode = OFF", "BEGIN EXCLUSIVE") // until c is closed
	if err == nil {
		return c, nil
	}
	_ = c.close()
	if code(err) == codeBusy {
		return nil, ErrInUse
	}
	return nil, fmt.Errorf("lock: %w", err)
}

// creating guards the making of files: to close one that another Broker of this process has locked
// meanwhile would end that lock, which is the process's and not the descriptor's.
var creating sync.Mutex

// create makes the file where there is none, for its owner alone, and makes sure that its folder has it.
// It does not touch one that is there, for the same reason.
func create(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil || runtime.GOOS == "windows" { // which has no fsync of folders
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// dsn is path as SQLite's URI, with nothing in it that means something there.
func dsn(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/...
	}
	return (&url.URL{Scheme: "file", Path: path}).String()
}

// begin makes the writer ready: its statements, and what it has to know of the file.
func (w *writer) begin(ctx context.Context) error {
	b := w.b
	for _, pragma := range []string{
		"PRAGMA journal_mode = WAL",
		"PRAGMA synchronous = FULL",
		"PRAGMA journal_size_limit = 16777216", // bytes of the log that stay after it was moved
	} {
		if _, err := w.conn.ExecContext(ctx, pragma); err != nil {
			return err
		}
	}
	if b.o.maxPages > 0 {
		if _, err := w.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA max_page_count = %d", b.o.maxPages)); err != nil {
			return err
		}
	}
	if b.o.check {
		w.damaged = w.conn.check(ctx)
	}
	if err := w.prepare(ctx); err != nil {
		return err
	}
	if err := w.conn.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = 'id'").Scan(&b.id); err != nil {
		return fmt.Errorf("its id: %w", err)
	}
	for _, load := range []func(context.Context) error{w.wind, w.loadRooms, w.loadIDs, w.loadRetention} {
		if err := load(ctx); err != nil {
			if w.note(err); w.damaged == nil {
				return err
			} // what is left to be read is served
		}
	}
	return nil
}

func (w *writer) loadRooms(ctx context.Context) error {
	return w.conn.QueryRowContext(ctx, "SELECT ifnull(max(id), 0) + 1 FROM rooms").Scan(&w.nextRoom)
}

// wind deals with a clock that is behind that of the file.
func (w *writer) wind(ctx context.Context) error {
	err := w.conn.QueryRowContext(ctx, `SELECT max(
		ifnull((SELECT value FROM meta WHERE name = 'clock'), 0),
		ifnull((SELECT at FROM ids ORDER BY n DESC LIMIT 1), 0))`).Scan(&w.saved)
	if err != nil {
		return err
	}
	now := w.b.now()
	if w.latest = w.saved; w.saved <= now {
		return nil
	}
	tx, err := w.conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	for _, text := range []string{
		"UPDATE messages SET at = ?1 WHERE at > ?1",
		"UPDATE ids SET at = ?1 WHERE at > ?1",
		"UPDATE meta SET value = ?1 WHERE name = 'clock'",
	} {
		if _, err := tx.ExecContext(ctx, text, now); err != nil {
			return err
		}
	}
	w.saved, w.latest = now, now
	return tx.Commit()
}

func (w *writer) loadIDs(ctx context.Context) error {
	d := &w.ids
	var last int64
	if err := w.conn.QueryRowContext(ctx, "SELECT ifnull(min(n), 1), ifnull(max(n), 0) FROM ids").Scan(&d.oldest, &last); err != nil {
		return err
	}
	d.next = last + 1
	rows, err := w.conn.QueryContext(ctx, "SELECT n, key, payload, seq, tag, time, at FROM ids WHERE n > ? AND at > ? ORDER BY n",
		last-int64(d.limit), w.b.now()-d.window)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var rec dedupRecord
		var key, payload sql.RawBytes
		var seq, tag int64
		if err := rows.Scan(&rec.n, &key, &payload, &seq, &tag, &rec.time, &rec.at); err != nil {
			return err
		}
		if len(key) != len(digest{}) || len(payload) != len(digest{}) {
			return damaged("row %d of ids", rec.n)
		}
		rec.payload, rec.seq, rec.tag = digest(payload), uint64(seq), uint64(tag)
		d.add(digest(key), rec)
	}
	return rows.Err()
}

func (w *writer) loadRetention(ctx context.Context) error {
	rows, err := w.conn.QueryContext(ctx, "SELECT room, messages, age FROM retention")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var room []byte
		var r retention
		if err := rows.Scan(&room, &r.messages, &r.age); err != nil {
			return err
		}
		w.b.own[string(room)] = r
	}
	return rows.Err()
}

// epoch is a room's, for as long as the file lives: other rooms and other files have others. It needs no
// row, so a room that never had a message takes no place.
func (b *Broker) epoch(room string) string {
	var buf [128]byte
	sum := sha256.Sum256(append(append(buf[:0], b.id...), room...))
	return epochText.EncodeToString(sum[:10])
}

var epochText = base32.StdEncoding.WithPadding(base32.NoPadding)

const (
	applicationID = 0x68756273 // "hubs", in the file's header
	idBytes       = 16
)

// migrations make, in that order, version 1 from an empty file, 2 from 1, and so on. None is changed
// once it was published.
var migrations = []string{`
	CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
	-- The last message that is not kept any more, the sum of sizes up to it, and a checksum of the row.
	CREATE TABLE rooms (
		id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE,
		edge_seq INTEGER NOT NULL, edge_tag INTEGER NOT NULL, edge_total INTEGER NOT NULL,
		sum INTEGER NOT NULL
	);
	-- A room's seqs have no holes. tag is a checksum of the row, at is when by the broker's clock, total the sum of the room's sizes up to here.
	CREATE TABLE messages (
		room INTEGER NOT NULL, seq INTEGER NOT NULL, tag INTEGER NOT NULL, at INTEGER NOT NULL, total INTEGER NOT NULL,
		time INTEGER NOT NULL, kind INTEGER NOT NULL,
		id BLOB, client BLOB, user BLOB, name BLOB, key BLOB, data BLOB,
		PRIMARY KEY (room, seq)
	) WITHOUT ROWID;
	-- The ids of messages, hashed with room and user, in the order in which they came.
	CREATE TABLE ids (
		n INTEGER PRIMARY KEY, key BLOB NOT NULL, payload BLOB NOT NULL,
		seq INTEGER NOT NULL, tag INTEGER NOT NULL, time INTEGER NOT NULL, at INTEGER NOT NULL
	);
	CREATE TABLE retention (room BLOB PRIMARY KEY, messages INTEGER NOT NULL, age INTEGER NOT NULL) WITHOUT ROWID;
`}

// migrate brings the file to the newest version, each step in a transaction. It changes nothing in a
// file that is not one of this package.
func migrate(ctx context.Context, conn *sql.Conn, migrations []string) error {
	var app, version, objects int
	err := conn.QueryRowContext(ctx, "SELECT * FROM pragma_application_id, pragma_user_version, (SELECT count(*) FROM sqlite_schema)").
		Scan(&app, &version, &objects)
	switch {
	case code(err) == codeNotADB:
		return fmt.Errorf("%w: no SQLite database", ErrForeign)
	case err != nil:
		return err
	case app != applicationID && (app != 0 || version != 0 || objects != 0):
		return fmt.Errorf("%w: a database of something else", ErrForeign)
	case version > len(migrations):
		return fmt.Errorf("%w: it has version %d, this program knows up to %d", ErrNewer, version, len(migrations))
	}
	if version == 0 { // only before the first table
		if _, err := conn.ExecContext(ctx, "PRAGMA auto_vacuum = INCREMENTAL"); err != nil {
			return err
		}
	}
	for ; version < len(migrations); version++ {
		if err := migrateTo(ctx, conn, version+1, migrations[version]); err != nil {
			return fmt.Errorf("migrate from version %d to %d: %w", version, version+1, err)
		}
	}
	return nil
}

func migrateTo(ctx context.Context, conn *sql.Conn, version int, text string) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	text += fmt.Sprintf("; PRAGMA user_version = %d; PRAGMA application_id = %d", version, applicationID)
	if _, err := tx.ExecContext(ctx, text); err != nil {
		return err
	}
	if version == 1 {
		id := make([]byte, idBytes)
		_, _ = rand.Read(id) // never fails
		if _, err := tx.ExecContext(ctx, "INSERT INTO meta VALUES ('id', ?), ('clock', 0)", id); err != nil {
			return err
		}
	}
	return tx.Commit()
}
