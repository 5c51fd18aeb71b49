// Bench loads the hub and, alike, the libraries people would pick instead, and writes
// docs/benchmarks.md. See README.md.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run is the parent, or one of the processes that it starts of itself.
func run() error {
	switch role := os.Getenv(roleVariable); role {
	case "":
		return parent(os.Args[1:])
	case "server":
		var c serverConfig
		if err := json.Unmarshal([]byte(os.Args[1]), &c); err != nil {
			return err
		}
		k, ok := kindNamed(c.Kind)
		if !ok {
			return fmt.Errorf("no server %q", c.Kind)
		}
		return serve(k, c)
	case "load":
		var c loadConfig
		if err := json.Unmarshal([]byte(os.Args[1]), &c); err != nil {
			return err
		}
		return runLoad(c)
	case "rooms":
		var c idleRoomsConfig
		if err := json.Unmarshal([]byte(os.Args[1]), &c); err != nil {
			return err
		}
		return measureIdleRooms(c)
	case "durable":
		var c durableConfig
		if err := json.Unmarshal([]byte(os.Args[1]), &c); err != nil {
			return err
		}
		return measureDurable(c)
	default:
		return fmt.Errorf("no role %q", role)
	}
}
