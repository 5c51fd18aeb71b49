package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// A figure is something to reach.
type figure struct {
	asked, seen string
	reached     bool
}

// A section of the report is a row, or two that are measured alike.
type section struct {
	name    string // as -only has it
	row     string // of the samples in its table
	title   string
	how     string
	figures []figure
	kinds   func(kind) bool
	columns []column
	chart   *chart
}

type column struct {
	head, metric, format string
}

var closedColumns = []column{
	{"CPU µs/delivery", mCPU, "%.2f"},
	{"user part, µs", mUser, "%.2f"},
	{"deliveries/s", mRate, "%.0f"},
	{"bytes/delivery", mBytes, "%.0f"},
	{"one order", mOneOrder, "%.0f"},
}

// sections are those that there are samples for.
func (b *bench) sections() []section {
	var all []section
	for _, s := range []section{b.single(), b.outstanding(), b.manyRooms(), b.deflate(), b.json(), b.stalled(),
		b.idle(), b.allocs(), b.idleRooms(), b.sizesSection(), b.durable()} {
		if b.only.MatchString(s.name) && (len(s.figures) > 0 || b.has(s)) {
			all = append(all, s)
		}
	}
	return all
}

// has tells whether there is something for s's table.
func (b *bench) has(s section) bool {
	return slices.ContainsFunc(b.samples, func(x sample) bool {
		k, _ := kindNamed(x.Kind)
		return x.Row == s.row && (s.kinds == nil || s.kinds(k))
	})
}

// limited is a figure that is to stay at or below a limit.
func limited(asked string, s spread, limit float64, format string) figure {
	return figure{asked, s.text(format), s.Median <= limit}
}

// atLeast is a figure that is to reach a limit.
func atLeast(asked string, s spread, limit float64, format string) figure {
	return figure{asked, s.text(format), s.Median >= limit}
}

// against is hub's metric over that of the best peer.
func (b *bench) against(row, metric string, higher bool) (peer string, ratio spread) {
	peer = b.samples.best(row, metric, higher)
	return peer, b.samples.ratio(row, "hub", metric, row, peer, metric)
}

// measuredIn leaves out the figures that nothing was measured for.
func measuredIn(figures ...figure) []figure {
	return slices.DeleteFunc(figures, func(f figure) bool { return strings.Contains(f.seen, "NaN") })
}

func (b *bench) single() section {
	peer, overPeer := b.against(rowSingle, mCPU, false)
	return section{
		name:  rowSingle,
		row:   rowSingle,
		title: "One room of 1,000 members, one message at a time",
		how: "128 bytes. The next message is published when all 1,000 have the one before. What the server costs " +
			"for a delivery; nearly all of it is the kernel's part of a `write` to a socket whose reader sleeps.",
		figures: measuredIn(
			limited("at most 1.15 × the floor's CPU", b.samples.ratio(rowSingle, "hub", mCPU, rowSingle, "floor", mCPU), 1.15, "%.2f ×"),
			limited("no more CPU than the best peer ("+peer+")", overPeer, 1, "%.2f ×"),
		),
		kinds:   notJSON,
		columns: closedColumns,
		chart:   &chart{name: "single", title: "Server CPU for a delivery, µs (left part: outside the kernel). 1,000 members, one message at a time", metric: mCPU, part: mUser, format: "%.2f"},
	}
}

func (b *bench) outstanding() section {
	peer, overPeer := b.against(rowOutstanding, mRate, true)
	return section{
		name:  rowOutstanding,
		row:   rowOutstanding,
		title: "The same, 64 messages under way",
		how:   "As one finishes, the next is published. Who has several messages for a client can send them with one call.",
		figures: measuredIn(
			atLeast("at least 3 × the deliveries/s of the best peer ("+peer+")", overPeer, 3, "%.2f ×"),
			atLeast("at least 0.5 × the batched floor's", b.samples.ratio(rowOutstanding, "hub", mRate, rowOutstanding, "floor-batched", mRate), 0.5, "%.2f ×"),
		),
		kinds:   notJSON,
		columns: closedColumns,
		chart:   &chart{name: "outstanding", title: "Deliveries/s. 1,000 members, 64 messages under way", metric: mRate, format: "%.0f"},
	}
}

func (b *bench) manyRooms() section {
	peer, overPeer := b.against(rowRooms, mRate, true)
	return section{
		name:  rowRooms,
		row:   rowRooms,
		title: "400 rooms of 10",
		how: "128 bytes, 64 messages under way over all rooms, which take turns. Here a publish counts for a tenth " +
			"of a delivery's cost; the floor reads it too.",
		figures: measuredIn(
			limited("at most 1.2 × the floor's CPU", b.samples.ratio(rowRooms, "hub", mCPU, rowRooms, "floor", mCPU), 1.2, "%.2f ×"),
			atLeast("at least the deliveries/s of the best peer ("+peer+")", overPeer, 1, "%.2f ×"),
		),
		kinds:   notJSON,
		columns: closedColumns,
		chart:   &chart{name: "rooms", title: "Deliveries/s. 400 rooms of 10, 64 messages under way", metric: mRate, format: "%.0f"},
	}
}

func (b *bench) deflate() section {
	peer, overPeer := b.against(rowDeflate, mRate, true)
	return section{
		name:  rowDeflate,
		row:   rowDeflate,
		title: "500 members, compressed",
		how: "512 bytes, permessage-deflate without context takeover, fastest level, 8 messages under way. The load checks " +
			"that each message comes compressed and inflates to what was sent. Publishes are not compressed.",
		figures: measuredIn(
			atLeast("at least 1.5 × the deliveries/s of the best peer ("+peer+")", overPeer, 1.5, "%.2f ×"),
			atLeast("then 2 × the deliveries/s of the best peer ("+peer+")", overPeer, 2, "%.2f ×"),
		),
		kinds:   deflates,
		columns: closedColumns,
		chart:   &chart{name: "deflate", title: "Deliveries/s. 500 members, 512 bytes, permessage-deflate, 8 messages under way", metric: mRate, format: "%.0f"},
	}
}

func (b *bench) json() section {
	ratio := func(row string) spread {
		return b.samples.ratio(row, "hub-json", mCPU, row, "hub", mCPU)
	}
	return section{
		name:  rowJSON,
		row:   rowOutstanding,
		title: "JSON door against plain door",
		how: "1,000 members, 128 bytes, once more on the JSON door: each message comes with its sender, time and cursor, and each " +
			"publish has an id and is acked. The table is with 64 under way.",
		figures: measuredIn(
			limited("at most 1.15 × the plain door's CPU, one message at a time", ratio(rowSingle), 1.15, "%.2f ×"),
			limited("at most 1.15 × the plain door's CPU, 64 messages under way", ratio(rowOutstanding), 1.15, "%.2f ×"),
		),
		kinds:   func(k kind) bool { return k.name == "hub" || k.name == "hub-json" },
		columns: closedColumns,
	}
}

// hubQueue is the hub's bound for what waits for a client, in KiB, with as much again that
// the parts of a queue in the kernel and the runtime may take.
const hubQueue = 1024 + 1024

func (b *bench) stalled() section {
	one := b.samples.spread(rowStalled, "hub", mGrowthOne)
	more := one
	without := b.samples.spread(rowStalled, "hub", mGrowth)
	more.Median -= without.Median
	return section{
		name:  rowStalled,
		row:   rowStalled,
		title: "One member of 1,000 does not read",
		how: fmt.Sprintf("%d messages of %d bytes a second for %.0f s. Time from publish to delivery at the others, in pairs of "+
			"a run without and one with such a member. Growth is the server's RSS over the phase. In the end the member reads: who queued "+
			"for it sends that, who cut it off ends the connection, who dropped messages says nothing.", stalledRate, stalledSize, stalledTime.Seconds()),
		figures: measuredIn(
			limited("the others' p99 at most 1.5 × that without", b.samples.ratio(rowStalled, "hub", mP99Stalled, rowStalled, "hub", mP99), 1.5, "%.2f ×"),
			figure{fmt.Sprintf("memory within the bound (1 MiB for a client; measured: RSS growth beyond that without, at most %d KiB)", hubQueue),
				fmt.Sprintf("%.0f KiB", more.Median), more.Median <= hubQueue},
		),
		kinds: deflates,
		columns: []column{
			{"p99 without, ms", mP99, "%.2f"},
			{"p99 with, ms", mP99Stalled, "%.2f"},
			{"RSS growth without, KiB", mGrowth, "%.0f"},
			{"with, KiB", mGrowthOne, "%.0f"},
			{"messages it got when it read in the end", mStalledGot, "%.0f"},
			{"then its connection ended", mStalledCut, "%.0f"},
		},
	}
}

func (b *bench) idle() section {
	return section{
		name:  rowIdle,
		row:   rowIdle,
		title: "8,000 connections at rest",
		how: fmt.Sprintf("In %d rooms. The server's RSS beyond that before they came, a connection, %.0f s after the last one; and after one "+
			"`debug.FreeOSMemory`. Kernel memory of the sockets is not in it.", idleRooms, idleSettle.Seconds()),
		figures: measuredIn(
			limited("at most 14 KiB of RSS a connection", b.samples.spread(rowIdle, "hub", mRSS), 14, "%.1f KiB"),
		),
		kinds: notJSON,
		columns: []column{
			{"RSS, KiB", mRSS, "%.1f"},
			{"after FreeOSMemory, KiB", mRSSFreed, "%.1f"},
			{"goroutines", mGoroutines, "%.1f"},
		},
		chart: &chart{name: "idle", title: "RSS of a connection at rest, KiB (left part: after debug.FreeOSMemory)", metric: mRSS, part: mRSSFreed, format: "%.1f"},
	}
}

// nothing is how many allocations for a delivery count as none: fewer than one for 20
// deliveries can't be an allocation for each of them.
const nothing = 0.05

func (b *bench) allocs() section {
	return section{
		name:  rowAllocs,
		row:   rowOutstanding,
		title: "Allocations",
		how: fmt.Sprintf("Of the whole server, measured in the runs above. Below %v for a delivery counts as 0: it is what a message costs, "+
			"spread over its 1,000 deliveries. The table is with 64 under way.", nothing),
		figures: measuredIn(
			limited("0 for a delivery, one message at a time", b.samples.spread(rowSingle, "hub", mMallocs), nothing, "%.3f"),
			limited("0 for a delivery, 64 messages under way", b.samples.spread(rowOutstanding, "hub", mMallocs), nothing, "%.3f"),
		),
		columns: []column{
			{"for a delivery", mMallocs, "%.3f"},
			{"for a message", mPerMessage, "%.1f"},
		},
	}
}

func (b *bench) idleRooms() section {
	return section{
		name:  rowIdleRooms,
		row:   rowIdleRooms,
		title: "10,000 idle rooms",
		how: "Heap and stacks in use of the process after a collection (whole spans, also where they hold little), for a room that one member has opened and left again; and where that member " +
			"said 128 bytes, which are kept. In the time of `WithIdle` (by default 30 s) after the last one left, a room is open: its loop runs. Then it has idled away, until somebody comes.",
		figures: measuredIn(
			limited("at most 4 KiB each, idled away", b.samples.spread(rowIdleRooms, "hub", mAway), 4096, "%.0f bytes"),
			limited("the same with a message kept", b.samples.spread(rowIdleRooms, "hub", mAwayKept), 4096, "%.0f bytes"),
			limited("at most 4 KiB each, still open", b.samples.spread(rowIdleRooms, "hub", mRoomEmpty), 4096, "%.0f bytes"),
			limited("the same with a message kept", b.samples.spread(rowIdleRooms, "hub", mRoomKept), 4096, "%.0f bytes"),
		),
		columns: []column{
			{"idled away, bytes", mAway, "%.0f"},
			{"with a message kept, bytes", mAwayKept, "%.0f"},
			{"open, bytes", mRoomEmpty, "%.0f"},
			{"of them stack", mRoomStack, "%.0f"},
			{"objects that live, bytes", mRoomLive, "%.0f"},
			{"with a message kept, bytes", mRoomKept, "%.0f"},
			{"goroutines", mGoroutines, "%.1f"},
		},
	}
}

func (b *bench) durable() section {
	return section{
		name:  rowDurable,
		row:   rowDurable,
		title: "Durable publishes",
		how: fmt.Sprintf("broker/sqlitebroker with its defaults, no network: %d publishers, each with its own id for every message of %d bytes, wait for their ack, "+
			"which means committed with synchronous=FULL. Bare is the same driver with the same settings: one goroutine inserts the same rows (message and id) "+
			"in transactions of as many messages as those of the broker had, and nothing else. They take turns of %v on the same disk.", durablePublishers, smallSize, durableTurn),
		figures: measuredIn(
			atLeast("at least 5,000 acked publishes/s", b.samples.spread(rowDurable, "hub", mDurable), 5000, "%.0f"),
			atLeast("at least 0.5 × bare SQLite with the same batches", b.samples.spread(rowDurable, "hub", mDurableRatio), 0.5, "%.2f ×"),
		),
		columns: []column{
			{"acked publishes/s", mDurable, "%.0f"},
			{"bare SQLite, messages/s", mDurableBare, "%.0f"},
			{"ratio", mDurableRatio, "%.2f"},
			{"messages of a transaction", mDurableBatch, "%.1f"},
		},
	}
}

// sizesSection has a table of its own: a line for each size.
func (b *bench) sizesSection() section {
	least, most := math.Inf(1), math.Inf(-1)
	var points []point
	for _, size := range sizes {
		s := b.samples.ratio(sizeRow(size), "hub", mCPU, sizeRow(size), "floor", mCPU)
		if s.N == 0 {
			return section{}
		}
		least, most = min(least, s.Median), max(most, s.Median)
		points = append(points, point{float64(size), s})
	}
	return section{
		name:  rowSizes,
		row:   rowSizes,
		title: "From 100 to 10,000 members",
		how: "128 bytes, one message at a time: the hub's CPU for a delivery, divided by the floor's at that size, measured one right " +
			"after the other.",
		figures: []figure{{"the largest ratio at most 1.2 × the smallest, from 100 to 10,000 members", fmt.Sprintf("%.2f × (ratios from %.2f to %.2f)", most/least, least, most), most/least <= 1.2}},
		chart:   &chart{name: "sizes", title: "CPU for a delivery over the floor's, by members of the room", points: points, format: "%.2f"},
	}
}

func (s spread) text(format string) string {
	if s.N == 0 {
		return "NaN"
	}
	text := fmt.Sprintf(format, s.Median)
	number, _, _ := strings.Cut(format, " ")
	if least, most := fmt.Sprintf(number, s.Min), fmt.Sprintf(number, s.Max); least != most {
		text += " (" + least + " to " + most + ")"
	}
	return grouped(text)
}

// grouped puts commas into numbers of five digits and more.
func grouped(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		end := i
		for end < len(text) && text[end] >= '0' && text[end] <= '9' {
			end++
		}
		digits := text[i:end]
		if end == i {
			b.WriteByte(text[i])
			i++
			continue
		}
		fraction := i > 0 && text[i-1] == '.'
		for j, d := range digits {
			if left := len(digits) - j; j > 0 && left%3 == 0 && len(digits) > 4 && !fraction {
				b.WriteByte(',')
			}
			b.WriteRune(d)
		}
		i = end
	}
	return b.String()
}
