package cdc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// span is a run of blocks of the heap: from (inclusive) to to (exclusive); to 0 is
// open-ended, so that what was added since the size was read is in it.
type span struct{ from, to int64 }

// spanBlocks is the least that is worth a session of its own: 32 MiB.
const spanBlocks = 4096

// split cuts the heap into one span for each worker. Spans are contiguous and few,
// so that a later copy of the same rows cuts at nearly the same places.
func split(t *Table, blocks int64, o CopyOptions) []span {
	least := o.spanBlocks
	if least == 0 {
		least = spanBlocks
	}
	n := min(int64(o.Workers), blocks/least)
	if n <= 1 || !t.heap || len(t.Relation.Columns) == 0 {
		return []span{{}}
	}
	out := make([]span, n)
	for i := range n {
		out[i] = span{from: blocks * i / n, to: blocks * (i + 1) / n}
	}
	out[n-1].to = 0
	return out
}

// copySQL is the statement of one span; the whole table by COPY t, which is
// cheaper. Columns are named: their order is the relation's. Values come in the
// server's encoding, unconverted.
func (s *Source) copySQL(t *Table, p span) string {
	name := qualified(t.Relation.Schema, t.Relation.Name)
	cols := make([]string, len(t.Relation.Columns))
	for i, c := range t.Relation.Columns {
		cols[i] = ident(c.Name)
	}
	list := strings.Join(cols, ", ")
	options := " TO STDOUT WITH (FORMAT text, ENCODING " + literal(s.encoding) + ")"
	switch {
	case p != span{}:
		where := fmt.Sprintf("ctid >= '(%d,0)'", p.from)
		if p.to > 0 {
			where += fmt.Sprintf(" AND ctid < '(%d,0)'", p.to)
		}
		return "COPY (SELECT " + list + " FROM ONLY " + name + " WHERE " + where + ")" + options
	case len(cols) == 0 && t.Generated:
		return "COPY (SELECT FROM ONLY " + name + ")" + options
	case len(cols) == 0:
		return "COPY " + name + options
	}
	return "COPY " + name + " (" + list + ")" + options
}

// sinkError marks what came from the caller's sink.
type sinkError struct{ err error }

func (e *sinkError) Error() string { return e.err.Error() }
func (e *sinkError) Unwrap() error { return e.err }

// read runs one COPY into a sink. The transaction ends with it, in the same message:
// the sink may be behind, and a session that is idle in its transaction for 5 s is
// ended.
func (r *reader) read(ctx context.Context, sql string, sink LineSink, pace *pacer, rows, size *atomic.Int64) error {
	w := &lines{done: ctx.Done(), sink: sink, pace: pace}
	a := readAhead(w)
	_, err := r.CopyTo(ctx, a, sql+"; COMMIT")
	err = a.finish(err)
	rows.Add(w.rows)
	size.Add(w.bytes)
	if w.err != nil {
		return &sinkError{w.err}
	}
	if err != nil {
		return err
	}
	if len(w.rest) > 0 {
		return errors.New("read rows: the last line has no end")
	}
	if err := sink.End(); err != nil {
		return &sinkError{err}
	}
	return nil
}

// lines splits CopyData into lines. The server sends one row per message; nothing
// relies on it.
type lines struct {
	done        <-chan struct{} // the copy was given up
	sink        LineSink
	pace        *pacer
	rest        []byte // a line without its end yet
	rows, bytes int64
	err         error
}

// Write takes one CopyData message.
func (w *lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			w.rest = append(w.rest, p...)
			break
		}
		line := p[:end]
		if len(w.rest) > 0 {
			w.rest = append(w.rest, line...)
			line = w.rest
		}
		if w.err = w.sink.Line(line); w.err != nil {
			return 0, w.err
		}
		w.rows++
		w.bytes += int64(len(line)) + 1
		w.rest = w.rest[:0]
		p = p[end+1:]
	}
	if w.err = w.pace.wait(w.done, n); w.err != nil {
		return 0, w.err
	}
	return n, nil
}

// pacer holds all workers of a copy to a rate.
type pacer struct {
	rate  int64
	now   func() time.Time
	start time.Time
	sent  atomic.Int64
}

func newPacer(rate int64, now func() time.Time) *pacer {
	return &pacer{rate: rate, now: now, start: now()}
}

// wait pauses while more was sent than the rate allows; never more than a second at
// a time, or the server would think us stopped.
func (p *pacer) wait(done <-chan struct{}, n int) error {
	if p.rate <= 0 {
		return nil
	}
	sent := p.sent.Add(int64(n))
	due := time.Duration(float64(sent) / float64(p.rate) * float64(time.Second))
	ahead := due - p.now().Sub(p.start)
	if ahead < 10*time.Millisecond {
		return nil
	}
	t := time.NewTimer(min(ahead, time.Second))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-done:
		return context.Canceled
	}
}
