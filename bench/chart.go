package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// A chart shows one metric of all kinds as bars, or points as a line.
type chart struct {
	name, title  string
	metric, part string // part of a bar is drawn apart, "" for none
	format       string
	points       []point
}

type point struct {
	x float64
	y spread
}

func (c *chart) file() string { return "benchmarks-" + c.name + ".svg" }

// The style follows the reader's light or dark page; the background is the page's.
const chartStyle = `<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 12px; font-weight: 600 }
.note { fill: #57606a }
.bar { fill: #8c959f } .part { fill: #57606a }
.hub .bar { fill: #2da44e } .hub .part { fill: #1a7f37 }
.floor .bar { fill: #d0d7de } .floor .part { fill: #afb8c1 }
.line { stroke: #57606a; fill: none }
.curve { stroke: #2da44e; stroke-width: 2; fill: none } .dot { fill: #2da44e }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.note { fill: #9198a1 }
.bar { fill: #6e7681 } .part { fill: #9198a1 }
.hub .bar { fill: #2ea043 } .hub .part { fill: #56d364 }
.floor .bar { fill: #30363d } .floor .part { fill: #484f58 }
.line { stroke: #9198a1 }
.curve { stroke: #3fb950 } .dot { fill: #3fb950 }
}
</style>
`

const (
	chartWidth = 720
	barHeight  = 20
	barStep    = 28
	barLeft    = 120
	barRoom    = chartWidth - barLeft - 190 // for the longest bar, so that its value fits beside
)

func (b *bench) draw(s section) string {
	if s.chart.points != nil {
		return s.chart.curve()
	}
	return b.bars(s)
}

func (b *bench) bars(s section) string {
	c := s.chart
	type bar struct {
		kind        kind
		value, part spread
	}
	var bars []bar
	most := 0.0
	for _, k := range kinds {
		v := b.samples.spread(s.row, k.name, c.metric)
		if v.N == 0 || s.kinds != nil && !s.kinds(k) {
			continue
		}
		bars = append(bars, bar{k, v, b.samples.spread(s.row, k.name, c.part)})
		most = max(most, v.Max)
	}
	var svg strings.Builder
	height := 40 + barStep*len(bars)
	open(&svg, c.title, height)
	for i, x := range bars {
		y := 34 + i*barStep
		class := "peer"
		switch {
		case x.kind.floor:
			class = "floor"
		case !x.kind.peer:
			class = "hub"
		}
		width := func(v float64) float64 { return max(0, v) / most * barRoom }
		fmt.Fprintf(&svg, `<g class="%s"><text x="%d" y="%d" text-anchor="end">%s</text>`, class, barLeft-8, y+15, html.EscapeString(x.kind.name))
		fmt.Fprintf(&svg, `<rect class="bar" x="%d" y="%d" width="%.1f" height="%d"/>`, barLeft, y, width(x.value.Median), barHeight)
		if x.part.N > 0 {
			fmt.Fprintf(&svg, `<rect class="part" x="%d" y="%d" width="%.1f" height="%d"/>`, barLeft, y, width(x.part.Median), barHeight)
		}
		if x.value.N > 1 { // from min to max
			fmt.Fprintf(&svg, `<path class="line" d="M%.1f %dH%.1f"/>`, barLeft+width(x.value.Min), y+barHeight/2, barLeft+width(x.value.Max))
		}
		fmt.Fprintf(&svg, `<text x="%.1f" y="%d">%s</text></g>`+"\n", barLeft+width(max(x.value.Median, x.value.Max))+8, y+15,
			grouped(fmt.Sprintf(c.format, x.value.Median)))
	}
	svg.WriteString("</svg>\n")
	return svg.String()
}

// curve draws points over a logarithmic x, y from 0.
func (c *chart) curve() string {
	const (
		left, right, top, height = 60, 40, 44, 180
	)
	most := 1.0
	for _, p := range c.points {
		most = max(most, p.y.Max)
	}
	most *= 1.1
	lowest, highest := math.Log(c.points[0].x), math.Log(c.points[len(c.points)-1].x)
	x := func(v float64) float64 {
		return left + (math.Log(v)-lowest)/max(1e-9, highest-lowest)*(chartWidth-left-right)
	}
	y := func(v float64) float64 { return top + height - v/most*height }
	var svg strings.Builder
	open(&svg, c.title, top+height+36)
	for _, v := range slices.Compact([]float64{0, 1}) {
		fmt.Fprintf(&svg, `<path class="line" d="M%d %.1fH%d" stroke-opacity="0.4"/><text class="note" x="%d" y="%.1f" text-anchor="end">%.0f ×</text>`+"\n",
			left, y(v), chartWidth-right, left-8, y(v)+4, v)
	}
	var path strings.Builder
	for i, p := range c.points {
		command := "L"
		if i == 0 {
			command = "M"
		}
		fmt.Fprintf(&path, "%s%.1f %.1f", command, x(p.x), y(p.y.Median))
		fmt.Fprintf(&svg, `<path class="line" d="M%.1f %.1fV%.1f"/><circle class="dot" cx="%.1f" cy="%.1f" r="4"/>`, x(p.x), y(p.y.Min), y(p.y.Max), x(p.x), y(p.y.Median))
		fmt.Fprintf(&svg, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, x(p.x), y(p.y.Max)-8, fmt.Sprintf(c.format, p.y.Median))
		fmt.Fprintf(&svg, `<text class="note" x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(p.x), top+height+20, grouped(fmt.Sprintf("%.0f", p.x)))
	}
	fmt.Fprintf(&svg, `<path class="curve" d="%s"/>`+"\n</svg>\n", path.String())
	return svg.String()
}

func open(svg *strings.Builder, title string, height int) {
	fmt.Fprintf(svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s">`+"\n%s",
		chartWidth, height, chartWidth, height, html.EscapeString(title), chartStyle)
	fmt.Fprintf(svg, `<text class="title" x="8" y="20">%s</text>`+"\n", html.EscapeString(title))
}
