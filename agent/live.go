package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// VerifyLive reads every captured table of the running source and holds it against
// the repository: the newest base and the records of the transactions that the
// snapshot sees. Nothing is uploaded. It needs the operator's key and a running
// agent.
func VerifyLive(ctx context.Context, repo *history.Repository, s *history.Secrets, o Options) ([]LiveResult, error) {
	o = o.defaults()
	log, err := OpenLog(ctx, repo, s, o.State)
	if err != nil {
		return nil, err
	}
	src, id, err := o.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer src.Close(context.WithoutCancel(ctx))
	if id.Source != log.ID().Source {
		return nil, fmt.Errorf("this database is %s, the history follows %s: %w", id.Source, log.ID().Source, ErrForeignSource)
	}
	cat, err := src.Catalog(ctx)
	if err != nil {
		return nil, err
	}
	l := &live{src: src, log: log, secrets: s, o: o}
	if l.view, err = log.Load(ctx); err != nil {
		return nil, err
	}
	out := make([]LiveResult, len(cat.Tables))
	for i := range cat.Tables {
		t := &cat.Tables[i]
		if out[i].Table = t.Relation.String(); !t.Capturable {
			out[i].Why, out[i].Left = "not captured: "+t.Reason, t.Left
			continue
		}
		if err := l.read(ctx, t, &out[i]); err != nil {
			return out[:i], fmt.Errorf("verify %s: %w", t.Relation.String(), err)
		}
		o.Progress()
	}
	return out, l.compare(ctx)
}

// live reads the source's tables first, then waits once until the repository holds
// what they showed, and goes through its records once for all of them.
type live struct {
	src     *cdc.Source
	log     *history.Log
	secrets *history.Secrets
	o       Options
	view    *history.View
	reads   []*liveRead
}

// liveRead is one table that was read.
type liveRead struct {
	info   history.BaseInfo
	base   *history.Base
	copied *cdc.Copied
	at     time.Time      // when its snapshot was taken
	live   record.Digest  // of the source's rows
	want   record.Digest  // what the repository predicts under that snapshot
	hasher *record.Hasher // of the records' lines
	out    *LiveResult
}

// digestSink only hashes.
type digestSink struct {
	hasher *record.Hasher
	sum    record.Digest
}

// Line takes one row.
func (d *digestSink) Line(line []byte) error {
	d.sum.Add(d.hasher.Line(line))
	return nil
}

// End has nothing to do.
func (d *digestSink) End() error { return nil }

// read hashes a table of the source. Why it was not read is in out.
func (l *live) read(ctx context.Context, t *cdc.Table, out *LiveResult) error {
	rel := &t.Relation
	r := &liveRead{out: out}
	for _, b := range l.view.Bases {
		if b.Table == rel.OID && (r.info.Table == 0 || b.ExactFrom > r.info.ExactFrom) {
			r.info = b
		}
	}
	if r.info.Table == 0 {
		out.Why = "not copied yet"
		return nil
	}
	var sinks []*digestSink
	copied, err := l.src.Copy(ctx, *t, cdc.CopyOptions{
		Workers: l.o.Tuning.Workers, Max: l.o.Tuning.CopyMax,
		NotBefore: l.view.Epochs[len(l.view.Epochs)-1].XMax,
		Position: func(record.Snapshot) record.LSN {
			r.at = l.o.Now()
			return 0
		},
	}, func(int) cdc.LineSink {
		d := &digestSink{hasher: record.NewHasher(l.secrets.Digest[:], rel.Schema, rel.Name)}
		sinks = append(sinks, d)
		return d
	})
	switch {
	case errors.Is(err, cdc.ErrBusy), errors.Is(err, cdc.ErrYield), errors.Is(err, cdc.ErrChanged), errors.Is(err, cdc.ErrGone), errors.Is(err, cdc.ErrSnapshotTooOld):
		out.Why = "not checked: " + err.Error()
		return nil
	case err != nil:
		return err
	}
	for _, d := range sinks {
		r.live.Add(d.sum)
	}
	r.copied, out.Rows = copied, r.live.Count
	l.reads = append(l.reads, r)
	return nil
}

// compare predicts each table's digest under its own snapshot from what the
// repository holds.
func (l *live) compare(ctx context.Context) error {
	if len(l.reads) == 0 {
		return nil
	}
	if err := l.settle(ctx); err != nil {
		return fmt.Errorf("is `lifeboat run` running? %w", err)
	}
	open, from := map[uint32]*liveRead{}, l.view.Durable
	for _, r := range l.reads {
		base, err := l.view.Base(ctx, r.info)
		if err != nil {
			return err
		}
		if !base.Relation.SameShape(&r.copied.Table.Relation) {
			r.out.Why = "its definition changed since it was copied"
			continue
		}
		r.base, r.want = base, base.Digest
		r.hasher = record.NewHasher(l.secrets.Digest[:], base.Relation.Schema, base.Relation.Name)
		open[r.info.Table], from = r, min(from, base.RecordsFrom)
	}
	err := l.view.Records(ctx, from, l.view.Durable, func(oid uint32) bool { return open[oid] != nil },
		func(t *record.Transaction, rel *record.Relation, rec *record.Record) error {
			return open[rel.OID].apply(ctx, l.view, t, rel, rec)
		})
	if err != nil {
		return err
	}
	for _, r := range open {
		if r.out.Why != "" {
			continue
		}
		if r.out.OK = r.want == r.live; !r.out.OK {
			r.out.Why = fmt.Sprintf("the repository predicts %s, the table has %s", r.want, r.live)
		}
	}
	return nil
}

// settle waits until the repository holds everything that a table showed.
func (l *live) settle(ctx context.Context) error {
	last := l.reads[0]
	for _, r := range l.reads {
		if r.copied.ExactFrom >= last.copied.ExactFrom {
			last = r
		}
	}
	// A note makes an idle agent store its position at once. What others write to the
	// WAL afterwards moves the walsender on, so one is not always enough.
	nudge := history.Note{Kind: history.NoteUnpin, Name: "verify --live"}
	var nudged time.Time
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := l.src.Settle(wait, last.copied.ExactFrom, last.at, func() (record.LSN, error) {
		if l.o.Now().Sub(nudged) > time.Second {
			nudged = l.o.Now()
			if err := appendNote(wait, l.log, l.view, nudge, l.o.Now); err != nil {
				return 0, err
			}
		}
		v, err := l.log.Advance(wait, l.view)
		if err != nil {
			return 0, err
		}
		l.view = v
		return v.Durable, nil
	})
	return err
}

// apply counts a record in whose transaction the read saw and the base did not.
func (r *liveRead) apply(ctx context.Context, v *history.View, t *record.Transaction, rel *record.Relation, rec *record.Record) error {
	if r.base.Snapshot.Sees(t.XID) || !r.copied.Snapshot.Sees(t.XID) {
		return nil
	}
	if rec.Op == record.Truncate {
		r.want = record.Digest{}
		return nil
	}
	if rel.Identity != record.Full || (rec.Op == record.Update && rec.Old.Absent()) {
		r.out.Why = "minimal identity: the proof is by re-copy alone"
		return nil
	}
	for i, line := range []record.Line{rec.Old, rec.New} {
		if line.Absent() {
			continue
		}
		text, err := v.Line(ctx, line)
		if err != nil {
			return err
		}
		if i == 0 {
			r.want.Sub(r.hasher.Line(text))
		} else {
			r.want.Add(r.hasher.Line(text))
		}
	}
	return nil
}
