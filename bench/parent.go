package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	measurement = 2 * time.Second // how long one takes
	leastRounds = 3               // of a report
)

// parent measures, prints the report, and writes it.
func parent(args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", "", "measure only rows whose name matches this `regexp`: "+strings.Join(rowNames, " ")+
		"; single, outstanding, json and allocs share their measurements")
	servers := flags.String("servers", "", "measure only these, comma-separated: "+strings.Join(kindNames(), " "))
	rounds := flags.Int("rounds", 3, "rounds, of which the median counts; a report has at least 3")
	duration := flags.Duration("time", measurement, "length of a measurement")
	out := flags.String("out", "", "write the report to this `file` and its charts beside it "+
		"(default ../docs/benchmarks.md; with -only, -servers, fewer rounds or shorter measurements, none)")
	raw := flags.String("json", "", "write every measured value to this `file`")
	profiles := flags.String("profiles", "", "write profiles of the servers into this `folder`; the figures suffer a little")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if flags.NArg() > 0 || *rounds < 1 || *duration < 50*time.Millisecond {
		return errors.New("no arguments, at least 1 round, and at least 50 ms a measurement")
	}
	b := &bench{rounds: *rounds, time: *duration, command: strings.Join(append([]string{"go run ."}, args...), " ")}
	if *profiles != "" {
		b.profiles = *profiles
		if err := os.MkdirAll(b.profiles, 0o755); err != nil {
			return err
		}
	}
	var err error
	b.all = *only == "" && *servers == ""
	if *only == "" {
		*only = ".*"
	}
	if b.only, err = regexp.Compile("^(?:" + *only + ")$"); err != nil {
		return err
	}
	if !slices.ContainsFunc(rowNames, b.only.MatchString) {
		return fmt.Errorf("no row %q; there are %s", *only, strings.Join(rowNames, " "))
	}
	if *servers != "" {
		b.servers = strings.Split(*servers, ",")
		for _, name := range b.servers {
			if _, ok := kindNamed(name); !ok {
				return fmt.Errorf("no server %q; there are %s", name, strings.Join(kindNames(), " "))
			}
		}
	}
	if *out == "" && b.all && *rounds >= leastRounds && *duration >= measurement {
		*out = "../docs/benchmarks.md"
	}
	if *out != "" {
		if *rounds < leastRounds {
			return fmt.Errorf("a report has at least %d rounds", leastRounds)
		}
		if _, err := os.Stat(filepath.Dir(*out)); err != nil { // not after 20 minutes
			return err
		}
	}

	b.run()
	r := newReport(b)
	fmt.Print(r.tables())
	if *raw != "" {
		data, err := json.MarshalIndent(b.samples, "", " ")
		if err == nil {
			err = os.WriteFile(*raw, data, 0o644)
		}
		if err != nil {
			return err
		}
	}
	if *out != "" {
		if err := r.write(*out); err != nil {
			return err
		}
	}
	if len(b.failures) > 0 {
		return fmt.Errorf("%d measurements failed", len(b.failures))
	}
	return nil
}

func kindNames() []string {
	var all []string
	for _, k := range kinds {
		all = append(all, k.name)
	}
	return all
}
