package sqlitebroker

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"modernc.org/sqlite"
)

// SQLite's result codes that are told apart.
const (
	codeError   = 1
	codeBusy    = 5
	codeCorrupt = 11
	codeFull    = 13
	codeNotADB  = 26
)

// code is SQLite's primary result code; 0 where err is not of SQLite.
func code(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// A conn is one connection to the file, with the statements prepared on it. Its owner alone uses it.
type conn struct {
	*sql.Conn
	db         *sql.DB
	statements []*sql.Stmt
}

func (c *conn) open(ctx context.Context, path string, pragmas ...string) error {
	var err error
	if c.db, err = sql.Open("sqlite", dsn(path)); err != nil {
		return err
	}
	c.db.SetMaxOpenConns(1)
	if c.Conn, err = c.db.Conn(ctx); err != nil {
		return err
	}
	for _, p := range pragmas {
		if _, err := c.ExecContext(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// prepare prepares statements, until one fails.
func (c *conn) prepare(ctx context.Context, texts map[**sql.Stmt]string) error {
	for to, text := range texts {
		s, err := c.PrepareContext(ctx, text)
		if err != nil {
			return err
		}
		*to = s
		c.statements = append(c.statements, s)
	}
	return nil
}

func (c *conn) close() error {
	if c.db == nil {
		return nil
	}
	var err error
	for _, s := range c.statements {
		err = errors.Join(err, s.Close())
	}
	if c.Conn != nil {
		err = errors.Join(err, c.Conn.Close())
	}
	return errors.Join(err, c.db.Close())
}

// check looks for damage of the file's structure, which takes as long as to read all of it.
func (c *conn) check(ctx context.Context) error {
	var found string
	err := c.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&found)
	if err == nil && found != "ok" {
		err = errors.New(found)
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}
