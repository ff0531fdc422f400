package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"lifeboat.im/lifeboat/restore"
)

// patience is how long a phase may run before it shows how far it is.
const patience = 2 * time.Second

// progress shows how far a restore is: on a terminal a bar with rate and time to
// go for each phase that takes longer than patience, else one plain line at its end.
type progress struct {
	out   io.Writer
	quiet bool
	bars  bool
	now   func() time.Time

	mu    sync.Mutex
	phase restore.Phase
	began time.Time
	total int64
	done  int64
	timer *time.Timer // shows the bar
	shown *mpb.Progress
	bar   *mpb.Bar
}

func (a *app) newProgress() *progress {
	f, ok := a.err.(*os.File)
	return &progress{
		out: a.err, now: a.now, quiet: a.flags.quiet || a.flags.json,
		bars: ok && term.IsTerminal(int(f.Fd())) && a.env("TERM") != "dumb",
	}
}

// Start begins a phase and ends the one before.
func (p *progress) Start(phase restore.Phase, total int64) {
	if p.quiet {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
	p.phase, p.total, p.done, p.began = phase, total, 0, p.now()
	if p.bars {
		p.timer = time.AfterFunc(patience, func() { p.show(phase) })
	}
}

// Add reports bytes done.
func (p *progress) Add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	if p.bar != nil {
		p.bar.SetCurrent(min(p.done, max(p.total-1, 0)))
	}
}

// Table is told of each table; the report lists them at the end.
func (p *progress) Table(restore.Phase, string, int64) {}

// end takes the last bar away.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
	p.phase = ""
}

func (p *progress) show(phase restore.Phase) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != phase || p.shown != nil {
		return
	}
	p.shown = mpb.New(mpb.WithOutput(p.out), mpb.WithWidth(40))
	name := mpb.PrependDecorators(decor.Name(fmt.Sprintf("%-24s", phase)))
	if p.total == 0 {
		p.bar = p.shown.AddSpinner(0, name, mpb.AppendDecorators(decor.NewElapsed(decor.ET_STYLE_GO, p.began)))
		return
	}
	p.bar = p.shown.AddBar(p.total, name, mpb.AppendDecorators(
		decor.Percentage(), decor.NewAverageSpeed(decor.SizeB1024(0), "  % .1f", p.began),
		decor.Name("  "), decor.NewAverageETA(decor.ET_STYLE_GO, p.began, nil),
	))
	p.bar.SetCurrent(min(p.done, p.total-1))
}

// finish ends the phase's bar or prints its line; p.mu is held.
func (p *progress) finish() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	if p.shown != nil {
		p.bar.Abort(true)
		p.shown.Wait()
		p.shown, p.bar = nil, nil
	}
	if d := p.now().Sub(p.began); p.phase != "" && p.phase != restore.PhaseFinished && d > patience {
		if p.done > 0 {
			fmt.Fprintf(p.out, "%-24s %s in %s\n", p.phase, mib(p.done), took(d))
		} else {
			fmt.Fprintf(p.out, "%-24s %s\n", p.phase, took(d))
		}
	}
}
