package restore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// copySQL is the COPY of a table's stored columns by name, in the order of its
// lines: pg_dump may have moved the columns of the table.
func copySQL(rel *record.Relation, direction string) string {
	return "COPY " + ident(rel.Schema, rel.Name) + columnList(rel) + direction
}

func columnList(rel *record.Relation) string {
	if len(rel.Columns) == 0 {
		return "" // COPY knows no empty list; a table without columns has none to choose
	}
	cols := make([]string, len(rel.Columns))
	for i, c := range rel.Columns {
		cols[i] = ident(c.Name)
	}
	return " (" + strings.Join(cols, ", ") + ")"
}

// loadBase copies a table's base into the target, without the lines that records
// supersede. Several sessions take the chunks in turn, so that the rows lie about
// in the order they had. A single one, into a table that nobody has seen yet,
// writes them frozen: no page is touched again for hint bits, by the read-back
// least of all.
func (c *copier) loadBase(ctx context.Context, conns []*pgconn.PgConn, j *tableJob) error {
	if j.base == nil || j.empty() || len(j.base.Pieces) == 0 {
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	source := &baseSource{job: j, pieces: c.fetch(gctx, j.base.Pieces, j.asIs()), add: c.progress.Add, release: c.release, ended: gctx.Err}
	options, frozen := "", len(conns) == 1 && !j.loaded
	if frozen {
		options = " WITH (FREEZE)"
		if err := runSQL(ctx, conns[0], "BEGIN; TRUNCATE ONLY "+ident(j.target.Schema, j.target.Name)); err != nil {
			return fmt.Errorf("load table %s: %w", j.name, err)
		}
	}
	for _, conn := range conns {
		g.Go(func() error {
			tag, err := conn.CopyFrom(gctx, &baseReader{baseSource: source}, copySQL(j.target, " FROM STDIN"+options))
			if err != nil {
				return fmt.Errorf("load table %s: %w", j.name, err)
			}
			source.mu.Lock()
			j.rows += tag.RowsAffected()
			source.mu.Unlock()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if frozen {
		if err := runSQL(ctx, conns[0], "COMMIT"); err != nil {
			return fmt.Errorf("load table %s: %w", j.name, err)
		}
	}
	return j.countPages(ctx, conns[0])
}

// piece is a part of a base that is, or is being, opened.
type piece struct {
	rows *chunkstore.Ref
	long []record.Extent // of one line, or of a part of one
	cost int64           // bytes that it holds of the budget
	// parts are those of a long line that is given piece by piece; all else is unset.
	parts chan *piece

	opened chan struct{}
	data   []byte
	err    error
}

// maxAhead bounds the bytes of bases that are open at once, over all tables: the
// chunks are small, but a long line may be anything.
const maxAhead = 24 << 20

// fetch opens pieces ahead of their readers, in order. A long line is given in
// parts when stream says that nobody needs it whole.
func (l *loader) fetch(ctx context.Context, pieces []history.Piece, stream bool) <-chan *piece {
	out := make(chan *piece, l.ahead)
	go func() {
		defer close(out)
		for i := range pieces {
			ok := false
			switch ref, long := pieces[i].Rows, pieces[i].Long; {
			case ref != nil:
				ok = l.open(ctx, out, &piece{rows: ref}, ref.Size)
			case stream:
				ok = l.openParts(ctx, out, long)
			default:
				size := uint64(0)
				for _, e := range long {
					size += e.Length
				}
				ok = l.open(ctx, out, &piece{long: long}, size)
			}
			if !ok {
				return // the context is done
			}
		}
	}()
	return out
}

// open hands a piece on, and fills it when the budget lets it.
func (l *loader) open(ctx context.Context, to chan<- *piece, p *piece, size uint64) bool {
	p.cost, p.opened = min(int64(size), maxAhead), make(chan struct{})
	if l.budget.Acquire(ctx, p.cost) != nil {
		return false
	}
	select {
	case to <- p:
	case <-ctx.Done():
		return false
	}
	go func() {
		defer close(p.opened)
		if p.rows != nil {
			p.data, p.err = l.store.GetInto(ctx, chunkstore.KindRows, *p.rows, l.buffer())
		} else {
			p.data, p.err = l.view.Bytes(ctx, p.long)
		}
	}()
	return true
}

// openParts hands on a long line whose parts follow.
func (l *loader) openParts(ctx context.Context, to chan<- *piece, long []record.Extent) bool {
	p := &piece{parts: make(chan *piece, l.ahead)}
	defer close(p.parts)
	select {
	case to <- p:
	case <-ctx.Done():
		return false
	}
	for k := range long {
		if !l.open(ctx, p.parts, &piece{long: long[k : k+1]}, long[k].Length) {
			return false
		}
	}
	return true
}

// buffer gives the buffer of a chunk that is done with, or none.
func (l *loader) buffer() []byte {
	select {
	case b := <-l.free:
		return b[:0]
	default:
		return nil
	}
}

// release gives back what a piece held, once COPY has taken its bytes.
func (l *loader) release(p *piece) {
	l.budget.Release(p.cost)
	if p.rows == nil || p.data == nil {
		return
	}
	select {
	case l.free <- p.data:
	default:
	}
}

// baseSource is a base that is being read, by one or several sessions.
type baseSource struct {
	job     *tableJob
	pieces  <-chan *piece
	add     func(int64)
	release func(*piece)
	ended   func() error // why pieces stop before the last one; nil: they did not
	mu      sync.Mutex   // guards job
}

// baseReader gives one COPY the lines that stay of the pieces it takes.
type baseReader struct {
	*baseSource
	cur    []byte        // what COPY gets next
	runs   [][]byte      // and after it
	from   *piece        // whose bytes they are
	parts  <-chan *piece // of the long line that is being read
	shaped []byte
	err    error
}

var newline = []byte{'\n'}

// Read implements io.Reader.
func (r *baseReader) Read(p []byte) (int, error) {
	for len(r.cur) == 0 {
		if len(r.runs) > 0 {
			r.cur, r.runs = r.runs[0], r.runs[1:]
			continue
		}
		if r.err == nil {
			r.err = r.next()
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.cur)
	r.cur = r.cur[n:]
	return n, nil
}

// next opens the next piece and cuts it into runs of lines that stay.
func (r *baseReader) next() error {
	if r.from != nil {
		r.release(r.from)
		r.from = nil
	}
	r.runs = r.runs[:0]
	from := r.pieces
	if r.parts != nil {
		from = r.parts
	}
	p, ok := <-from
	if err := r.ended(); !ok && err != nil {
		return err
	}
	switch {
	case !ok && r.parts != nil: // the end of a long line
		r.parts, r.runs = nil, append(r.runs, newline)
		return nil
	case !ok:
		return io.EOF
	case p.parts != nil:
		r.parts = p.parts
		return nil
	}
	<-p.opened
	r.from = p
	if p.err != nil {
		return fmt.Errorf("table %s: read its base: %w", r.job.name, p.err)
	}
	r.add(int64(len(p.data)))
	if r.job.asIs() {
		r.runs = append(r.runs, p.data)
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.rows == nil {
		kept, err := r.job.stays(p.data)
		if err != nil || !kept {
			return err
		}
		r.runs = append(r.runs, r.job.shapeOut(p.data, &r.shaped), newline)
		return nil
	}
	return r.cut(p.data)
}

// stays asks the merge whether a line of the base is part of the result, and hashes it
// then, when that is asked for.
func (j *tableJob) stays(line []byte) (bool, error) {
	if !j.whole() {
		if ok, err := j.keep(line); err != nil || !ok {
			return false, err
		}
	}
	if j.hashing {
		j.emitted.Add(j.hasher.Line(line))
	}
	return true, nil
}

func (r *baseReader) cut(b []byte) error {
	start := 0 // of the run of lines that stay
	var shaped []byte
	for off := 0; off < len(b); {
		end := bytes.IndexByte(b[off:], '\n')
		if end < 0 {
			return fmt.Errorf("table %s: a chunk of its base ends within a line: %w", r.job.name, record.ErrCorrupt)
		}
		line, next := b[off:off+end], off+end+1
		ok, err := r.job.stays(line)
		if err != nil {
			return err
		}
		switch {
		case r.job.project != nil:
			if ok {
				shaped = append(append(shaped, r.job.shapeOut(line, &r.shaped)...), '\n')
			}
		case !ok:
			if off > start {
				r.runs = append(r.runs, b[start:off])
			}
			start = next
		}
		off = next
	}
	if r.job.project != nil {
		r.runs = append(r.runs, shaped)
	} else if start < len(b) {
		r.runs = append(r.runs, b[start:])
	}
	return nil
}

// asIs reports that the base's lines go to COPY without a look at them.
func (j *tableJob) asIs() bool { return j.whole() && !j.hashing && j.project == nil }

// shapeOut gives the line with the columns that the target has.
func (j *tableJob) shapeOut(line []byte, buf *[]byte) []byte {
	if j.project == nil {
		return line
	}
	out, first := (*buf)[:0], true
	_ = record.Fields(line, len(j.rel.Columns), func(i int, f []byte) {
		if !slices.Contains(j.project, i) {
			return
		}
		if !first {
			out = append(out, '\t')
		}
		out, first = append(out, f...), false
	})
	*buf = out
	return out
}
