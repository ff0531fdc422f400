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
	var out []LiveResult
	for i := range cat.Tables {
		t := &cat.Tables[i]
		if !t.Capturable {
			out = append(out, LiveResult{Table: t.Relation.String(), Why: "not captured: " + t.Reason, Left: t.Left})
			continue
		}
		r, err := liveTable(ctx, src, log, s, o, t)
		if err != nil {
			return out, fmt.Errorf("verify %s: %w", t.Relation.String(), err)
		}
		out = append(out, r)
		o.Progress()
	}
	return out, nil
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

func liveTable(ctx context.Context, src *cdc.Source, log *history.Log, s *history.Secrets, o Options, t *cdc.Table) (LiveResult, error) {
	rel := &t.Relation
	out := LiveResult{Table: rel.String()}
	v, err := log.Load(ctx)
	if err != nil {
		return out, err
	}
	var base *history.BaseInfo
	for i := range v.Bases {
		if b := &v.Bases[i]; b.Table == rel.OID && (base == nil || b.ExactFrom > base.ExactFrom) {
			base = b
		}
	}
	if base == nil {
		out.Why = "not copied yet"
		return out, nil
	}
	var sinks []*digestSink
	var snapshotAt time.Time
	copied, err := src.Copy(ctx, *t, cdc.CopyOptions{
		Workers: o.Tuning.Workers, Max: o.Tuning.CopyMax,
		NotBefore: v.Epochs[len(v.Epochs)-1].XMax,
		Position: func(record.Snapshot) record.LSN {
			snapshotAt = o.Now()
			return 0
		},
	}, func(int) cdc.LineSink {
		d := &digestSink{hasher: record.NewHasher(s.Digest[:], rel.Schema, rel.Name)}
		sinks = append(sinks, d)
		return d
	})
	switch {
	case errors.Is(err, cdc.ErrBusy), errors.Is(err, cdc.ErrYield), errors.Is(err, cdc.ErrChanged), errors.Is(err, cdc.ErrGone), errors.Is(err, cdc.ErrSnapshotTooOld):
		out.Why = "not checked: " + err.Error()
		return out, nil
	case err != nil:
		return out, err
	}
	var live record.Digest
	for _, d := range sinks {
		live.Add(d.sum)
	}
	out.Rows = live.Count
	want, why, err := expected(ctx, src, log, s, o, *base, copied, snapshotAt)
	if err != nil || why != "" {
		out.Why = why
		return out, err
	}
	if out.OK = want == live; !out.OK {
		out.Why = fmt.Sprintf("the repository predicts %s, the table has %s", want, live)
	}
	return out, nil
}

// expected computes the digest of the table under the copy's snapshot from what
// the repository holds.
func expected(ctx context.Context, src *cdc.Source, log *history.Log, s *history.Secrets, o Options, info history.BaseInfo, copied *cdc.Copied, snapshotAt time.Time) (sum record.Digest, why string, err error) {
	// A note makes an idle agent store its position at once. What others write to the
	// WAL afterwards moves the walsender on, so one is not always enough.
	nudge := history.Note{Kind: history.NoteUnpin, Name: "verify --live"}
	var nudged time.Time
	var v *history.View
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err = src.Settle(wait, copied.ExactFrom, snapshotAt, func() (record.LSN, error) {
		if o.Now().Sub(nudged) > time.Second {
			nudged = o.Now()
			if err := appendNote(wait, log, nudge, o.Now); err != nil {
				return 0, err
			}
		}
		if v, err = log.Load(wait); err != nil {
			return 0, err
		}
		return v.Durable, nil
	})
	if err != nil {
		return sum, "", fmt.Errorf("is `lifeboat run` running? %w", err)
	}
	base, err := v.Base(ctx, info)
	if err != nil {
		return sum, "", err
	}
	if !base.Relation.SameShape(&copied.Table.Relation) {
		return sum, "its definition changed since it was copied", nil
	}
	sum = base.Digest
	h := record.NewHasher(s.Digest[:], base.Relation.Schema, base.Relation.Name)
	want := func(oid uint32) bool { return oid == info.Table }
	err = v.Records(ctx, base.RecordsFrom, v.Durable, want, func(t *record.Transaction, rel *record.Relation, r *record.Record) error {
		if base.Snapshot.Sees(t.XID) || !copied.Snapshot.Sees(t.XID) {
			return nil
		}
		if r.Op == record.Truncate {
			sum = record.Digest{}
			return nil
		}
		if rel.Identity != record.Full || (r.Op == record.Update && r.Old.Absent()) {
			why = "minimal identity: the proof is by re-copy alone"
			return nil
		}
		for i, l := range []record.Line{r.Old, r.New} {
			if l.Absent() {
				continue
			}
			text, err := v.Line(ctx, l)
			if err != nil {
				return err
			}
			if i == 0 {
				sum.Sub(h.Line(text))
			} else {
				sum.Add(h.Line(text))
			}
		}
		return nil
	})
	return sum, why, err
}
