package main

import (
	"fmt"
	"io"
	"slices"
)

// result is one figure: pairs of what we took and what the peer took.
type result struct {
	name    string
	target  float64 // 0: none
	atLeast bool    // the ratio must not be below the target, else not above
	ratios  []float64
	ours    []usage
	peer    []usage
	// plain figures have a text of their own instead of pairs.
	plain string
	miss  bool
}

func (b *bench) figure(name string, target float64, atLeast bool) *result {
	r := &result{name: name, target: target, atLeast: atLeast}
	b.results = append(b.results, r)
	return r
}

// tell adds a figure that is a text.
func (b *bench) tell(name, text string) {
	b.results = append(b.results, &result{name: name, plain: text})
	fmt.Printf("   %s: %s\n", name, text)
}

// peak adds a figure that is not a ratio; most is its target in MiB, 0: none.
func (b *bench) peak(name string, kib, most int64) {
	r := &result{name: name, plain: fmt.Sprintf("%d MiB", kib>>10)}
	if most > 0 {
		r.target = float64(most)
		r.miss = kib > most<<10
		r.plain += fmt.Sprintf(" (target ≤ %d)", most)
	} else {
		r.plain += " (no target)"
	}
	b.results = append(b.results, r)
	fmt.Printf("   %s: %s\n", name, r.plain)
}

// pair adds one pair; ratio is ours ÷ the peer's.
func (r *result) pair(ours, peer usage, ratio float64) {
	r.ours, r.peer, r.ratios = append(r.ours, ours), append(r.peer, peer), append(r.ratios, ratio)
	fmt.Printf("   %-22s %7.2f s (cpu %.2f + %.2f) ÷ %7.2f s (cpu %.2f + %.2f): %.3f\n", r.name, ours.wall, ours.cpu, ours.server, peer.wall, peer.cpu, peer.server, ratio)
}

func (r *result) missed() bool {
	m := median(r.ratios)
	return r.miss || r.target > 0 && len(r.ratios) > 0 && (r.atLeast && m < r.target || !r.atLeast && m > r.target)
}

func median(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	s := slices.Clone(x)
	slices.Sort(s)
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func medianOf(u []usage, f func(usage) float64) float64 {
	x := make([]float64, len(u))
	for i := range u {
		x[i] = f(u[i])
	}
	return median(x)
}

// print writes the table.
func (b *bench) print(w io.Writer) {
	if len(b.results) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%-42s %7s  %-9s %-4s %5s  %25s  %25s\n", "figure", "median", "target", "", "pairs", "ours s (cpu + server's)", "peer s (cpu + server's)")
	for _, r := range b.results {
		verdict := "ok"
		if r.missed() {
			verdict = "MISS"
		}
		if r.plain != "" {
			if r.target == 0 {
				verdict = ""
			}
			fmt.Fprintf(w, "%-42s %s %s\n", r.name, r.plain, verdict)
			continue
		}
		if len(r.ratios) == 0 {
			fmt.Fprintf(w, "%-42s not measured\n", r.name)
			continue
		}
		target := "-"
		switch {
		case r.target == 0:
			verdict = ""
		case r.atLeast:
			target = fmt.Sprintf("≥ %.2f", r.target)
		default:
			target = fmt.Sprintf("≤ %.2f", r.target)
		}
		wall := func(u usage) float64 { return u.wall }
		cpu := func(u usage) float64 { return u.cpu }
		server := func(u usage) float64 { return u.server }
		fmt.Fprintf(w, "%-42s %7.3f  %-9s %-4s %5d  %7.2f (%6.2f + %6.2f)  %7.2f (%6.2f + %6.2f)\n", r.name, median(r.ratios), target, verdict, len(r.ratios),
			medianOf(r.ours, wall), medianOf(r.ours, cpu), medianOf(r.ours, server), medianOf(r.peer, wall), medianOf(r.peer, cpu), medianOf(r.peer, server))
	}
}
