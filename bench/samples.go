package main

import (
	"math"
	"slices"
)

// A sample is one measured value.
type sample struct {
	Row    string
	Kind   string
	Metric string
	Round  int
	Value  float64
}

// The metrics, and the units in which they are kept.
const (
	mCPU          = "cpu"           // of the server for a delivery, µs
	mUser         = "user"          // the part of it outside the kernel, µs
	mRate         = "rate"          // deliveries/s
	mMallocs      = "mallocs"       // for a delivery
	mPerMessage   = "per message"   // allocations for a message
	mBytes        = "bytes"         // on the wire for a delivery
	mOneOrder     = "one order"     // 1: all members saw one order
	mP99          = "p99"           // publish to delivery, ms
	mP99Stalled   = "p99 stalled"   // the same beside a member that does not read, ms
	mGrowth       = "growth"        // RSS in a phase, KiB
	mGrowthOne    = "growth one"    // the same with the member that does not read, KiB
	mStalledGot   = "stalled got"   // messages that it got when it read in the end
	mStalledCut   = "stalled cut"   // 1: then its connection ended
	mRSS          = "rss"           // for a connection, KiB
	mRSSFreed     = "rss freed"     // the same after debug.FreeOSMemory
	mGoroutines   = "goroutines"    // for a connection
	mRoomEmpty    = "room empty"    // an open room that keeps nothing, bytes
	mRoomStack    = "room stack"    // the part of it that is stacks, bytes
	mDurable      = "durable"       // acked publishes/s
	mDurableBare  = "durable bare"  // the same rows committed by SQLite alone, messages/s
	mDurableRatio = "durable ratio" // the one over the other, of one round
	mDurableBatch = "durable batch" // messages of a transaction
	mRoomLive     = "room live"     // HeapAlloc of it, bytes
	mRoomKept     = "room kept"     // an open room with one message kept, bytes
	mAway         = "room away"     // a room that has idled away, bytes
	mAwayKept     = "away, kept"    // the same with one message kept, bytes
)

type samples []sample

func (s *samples) add(row, kind, metric string, round int, value float64) {
	*s = append(*s, sample{row, kind, metric, round, value})
}

// rounds are the values of one metric by round.
func (s samples) rounds(row, kind, metric string) map[int]float64 {
	values := make(map[int]float64)
	for _, x := range s {
		if x.Row == row && x.Kind == kind && x.Metric == metric {
			values[x.Round] = x.Value
		}
	}
	return values
}

// A spread is a median with what it is the median of.
type spread struct {
	Median, Min, Max float64
	N                int
}

func (s samples) spread(row, kind, metric string) spread {
	return spreadOf(s.rounds(row, kind, metric))
}

// ratio divides, round by round, a's metric by b's, which may be of another row.
func (s samples) ratio(rowA, a, metricA, rowB, b, metricB string) spread {
	over := s.rounds(rowB, b, metricB)
	values := make(map[int]float64)
	for round, v := range s.rounds(rowA, a, metricA) {
		if w, ok := over[round]; ok && w != 0 {
			values[round] = v / w
		}
	}
	return spreadOf(values)
}

func spreadOf(values map[int]float64) spread {
	if len(values) == 0 {
		return spread{Median: math.NaN(), Min: math.NaN(), Max: math.NaN()}
	}
	all := make([]float64, 0, len(values))
	for _, v := range values {
		all = append(all, v)
	}
	slices.Sort(all)
	middle := (all[(len(all)-1)/2] + all[len(all)/2]) / 2
	return spread{Median: middle, Min: all[0], Max: all[len(all)-1], N: len(all)}
}

// best is the peer with the best median, "" where there is none.
func (s samples) best(row, metric string, higher bool) string {
	name, value := "", 0.0
	for _, k := range kinds {
		m := s.spread(row, k.name, metric).Median
		if !k.peer || math.IsNaN(m) {
			continue
		}
		if name == "" || higher == (m > value) {
			name, value = k.name, m
		}
	}
	return name
}
