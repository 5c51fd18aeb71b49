package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// child is a process of this program in another role. It answers each line on its standard
// input with one on its standard output, and ends when its input does.
type child struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  chan []byte
	stderr *bytes.Buffer
}

// roleVariable tells a child what it is: see main.
const roleVariable = "HUB_BENCH_ROLE"

func startChild(role string, config any) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	argument, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(self, string(argument)), lines: make(chan []byte, 1), stderr: new(bytes.Buffer)}
	c.cmd.Env = append(os.Environ(), roleVariable+"="+role)
	c.cmd.Stderr = c.stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(c.lines)
		scanner := bufio.NewScanner(out)
		for scanner.Scan() {
			c.lines <- bytes.Clone(scanner.Bytes())
		}
	}()
	return c, nil
}

// answer waits for the child's next line.
func (c *child) answer(v any, limit time.Duration) error {
	select {
	case line, ok := <-c.lines:
		if !ok {
			err := c.cmd.Wait()
			return fmt.Errorf("%w: %s", errors.Join(err, errors.New("the process ended")), lastLines(c.stderr.String(), 12))
		}
		return json.Unmarshal(line, v)
	case <-time.After(limit):
		return fmt.Errorf("no answer within %v", limit)
	}
}

func (c *child) ask(command string, v any, limit time.Duration) error {
	if _, err := io.WriteString(c.in, command+"\n"); err != nil {
		// What it died of comes with the answer that does not come.
		if gone := c.answer(v, time.Second); gone != nil {
			return gone
		}
		return err
	}
	return c.answer(v, limit)
}

func (c *child) stop() {
	c.in.Close()
	timer := time.AfterFunc(2*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer timer.Stop()
	for range c.lines {
	}
	_ = c.cmd.Wait()
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// serverConfig is what a server process does.
type serverConfig struct {
	Kind    string
	Deflate bool // permessage-deflate without context takeover
	AtRest  bool // many connections that say little: a library's settings for that, if it has any
}

// pair is a server and its load, connected.
type pair struct {
	kind         kind
	server, load *child
	config       loadConfig
	before       stats // of the server without connections
}

// connect starts k's server and a load with c's rooms, and waits until all are members.
func connect(k kind, c loadConfig) (*pair, error) {
	p := &pair{kind: k}
	var err error
	if p.server, err = startChild("server", serverConfig{k.name, c.Deflate, c.Silent}); err != nil {
		return nil, err
	}
	var address string
	if err = p.server.answer(&address, 10*time.Second); err == nil {
		err = p.server.ask("stats", &p.before, 10*time.Second)
	}
	if err == nil {
		c.Address, err = parseAddress(address)
	}
	c.Dialect, c.Ordered = k.dialect, k.ordered
	p.config = c
	if err == nil {
		p.load, err = startChild("load", c)
	}
	if err == nil {
		var connected result
		err = p.load.answer(&connected, 2*time.Minute)
	}
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("%s: %w", k.name, err)
	}
	return p, nil
}

func (p *pair) stop() {
	if p.load != nil {
		p.load.stop()
	}
	p.server.stop()
}

// measured is a phase with what it cost the server.
type measured struct {
	result
	User, System int64 // µs
	Mallocs      uint64
	RSS          int64 // growth, bytes
}

// run does one phase.
func (p *pair) run(ph phase) (m measured, err error) {
	var before, after stats
	command, err := json.Marshal(ph)
	if err != nil {
		return m, err
	}
	if err = p.server.ask("stats", &before, 10*time.Second); err == nil {
		err = p.load.ask(string(command), &m.result, time.Minute+time.Duration(ph.Millis)*time.Millisecond)
	}
	if err == nil {
		err = p.server.ask("stats", &after, 10*time.Second)
	}
	if err != nil {
		return m, fmt.Errorf("%s: %w", p.kind.name, err)
	}
	m.User, m.System = after.User-before.User, after.System-before.System
	m.Mallocs, m.RSS = after.Mallocs-before.Mallocs, after.RSS-before.RSS
	return m, nil
}

// cpu is the server's CPU time for a delivery, in µs.
func (m measured) cpu() float64 { return float64(m.User+m.System) / float64(m.Deliveries) }

// user is the part of cpu outside the kernel.
func (m measured) user() float64 { return float64(m.User) / float64(m.Deliveries) }

// rate is deliveries a second.
func (m measured) rate() float64 { return float64(m.Deliveries) / (float64(m.Nanos) / 1e9) }

// mallocs is allocations for a delivery.
func (m measured) mallocs() float64 { return float64(m.Mallocs) / float64(m.Deliveries) }
