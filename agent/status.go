package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// Status reads the log and, when it can be reached, the source. It needs no
// operator's key.
func Status(ctx context.Context, repo *history.Repository, s *history.Secrets, o Options) (*StatusReport, error) {
	o = o.defaults()
	log, err := OpenLog(ctx, repo, s, o.State)
	if err != nil {
		return nil, err
	}
	v, err := log.Load(ctx)
	if err != nil {
		return nil, err
	}
	r := &StatusReport{
		View:   v,
		Source: v.ID.Source.String(), Lineage: v.ID.Lineage.String(), Epoch: v.Head.Epoch,
		Durable: v.Durable, DurableText: v.Durable.String(), DurableTime: v.DurableTime.Time(),
	}
	if p := v.Epochs[0].Parent; p != nil {
		r.Parent, r.ParentAt = p.ID.String(), p.At.String()
	}
	tables := map[uint32]int{}
	for _, p := range v.Proofs() {
		tables[p.Table] = len(r.Tables)
		r.Tables = append(r.Tables, TableStatus{
			Name: p.Name, Rows: p.Rows, Bytes: p.Bytes, ExactText: p.ExactFrom.String(), Copied: momentOf(p.Time), Proved: momentOf(p.ProvedTime),
		})
	}
	for _, i := range v.Incompletes {
		if i.Until != 0 {
			continue
		}
		r.Incomplete = append(r.Incomplete, fmt.Sprintf("%s since %s: %s", i.Name, i.From, i.Reason))
		if at, ok := tables[i.Table]; ok {
			r.Tables[at].Incomplete = true
		}
	}
	for _, m := range v.Mismatches {
		r.Mismatches = append(r.Mismatches, fmt.Sprintf("%s between %s and %s: %s", m.Name, m.From, m.Until, m.Reason))
	}
	last := v.Head.Epoch // segments that no history holds
	for _, g := range v.Segments {
		if g.Epoch < v.Head.Epoch && g.Epoch != last {
			r.UnmergedEpochs++
			last = g.Epoch
		}
	}
	if !v.Ready {
		r.Notes = append(r.Notes, "the first copies are not finished: nothing can be restored yet")
	}
	err = repo.Backend().List(ctx, "", func(i chunkstore.Info) error {
		r.Objects++
		r.Bytes += i.Size
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the repository: %w", err)
	}
	if o.Source.DSN != "" {
		if err := r.askSource(ctx, o, repo, s, v); err != nil {
			r.Notes = append(r.Notes, "the source could not be asked: "+err.Error())
		}
	}
	return r, nil
}

// momentOf gives the zero time where the log says nothing.
func momentOf(t record.Time) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return t.Time()
}

func (r *StatusReport) askSource(ctx context.Context, o Options, repo *history.Repository, s *history.Secrets, v *history.View) error {
	src, id, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer src.Close(ctx)
	if id.Source != v.ID.Source {
		r.Notes = append(r.Notes, fmt.Sprintf("the configured database is %s, not the one that this history follows", id.Source))
		return nil
	}
	pos, err := src.Now(ctx)
	if err != nil {
		return err
	}
	lag := int64(pos.Insert) - int64(v.Durable)
	r.Lag = &lag
	why, mend, err := leftSlot(ctx, src, repo, s, v, o.Source.Slot)
	if err != nil {
		return err
	}
	if why != "" {
		r.Notes = append(r.Notes, why+"; "+mend)
	}
	slot, err := src.Slot(ctx)
	if err != nil {
		return err
	}
	if slot == nil {
		r.Notes = append(r.Notes, "the replication slot is gone: `lifeboat run --new-base`")
		return nil
	}
	active := slot.ActivePID != 0
	r.SlotActive, r.SlotRetained = &active, &slot.RetainedBytes
	if !active {
		r.Notes = append(r.Notes, "no agent is running: the source keeps WAL until `lifeboat run` goes on")
	}
	return nil
}

// Doctor checks the live set-up: the source, the state directory, the repository
// and whether they belong together.
func Doctor(ctx context.Context, repo *history.Repository, s *history.Secrets, o Options) ([]Finding, error) {
	o = o.defaults()
	var out []Finding
	var src *cdc.Source
	var id cdc.Identity
	err := errors.New("no database is known")
	if o.Source.DSN != "" { // else the client would take the environment's
		src, id, err = o.connect(ctx)
	}
	if err != nil {
		out = append(out, Finding{Name: "source", State: "fail", Why: err.Error(), Mend: "check that the server runs, and `source:` in the configuration, or what `homeserver:` names"})
	} else {
		defer src.Close(ctx)
		if lin, err := Lineage(o.State); err == nil && lin.Source == id.Source {
			if v, err := repo.Log(s, lin, nil).Load(ctx); err == nil { // else it is said below
				tellHuge(src, v)
			}
		}
		found, err := src.Check(ctx, cdc.CheckOptions{Bin: o.Source.PgBin})
		if err != nil {
			return out, err
		}
		for _, f := range found {
			out = append(out, Finding{Name: f.Name, State: string(f.State), Why: f.Why, Mend: f.Mend})
		}
	}
	lin, err := Lineage(o.State)
	switch {
	case errors.Is(err, ErrNotAttached):
		return append(out, Finding{Name: "lineage", State: "warn", Why: "this host follows nothing yet", Mend: "lifeboat attach"}), nil
	case err != nil:
		return append(out, Finding{Name: "lineage", State: "fail", Why: err.Error(), Mend: "restore the state directory, or attach with a new one"}), nil
	case src != nil && lin.Source != id.Source:
		return append(out, Finding{
			Name: "lineage", State: "fail", Mend: "lifeboat run --adopt",
			Why: fmt.Sprintf("the state directory follows %s, the database is %s", lin.Source, id.Source),
		}), nil
	}
	v, err := repo.Log(s, lin, nil).Load(ctx)
	if err != nil {
		return append(out, Finding{Name: "history", State: "fail", Why: err.Error(), Mend: "lifeboat verify"}), nil
	}
	wasThere(out)
	if src != nil {
		why, mend, err := leftSlot(ctx, src, repo, s, v, o.Source.Slot)
		if err != nil {
			return out, err
		}
		if why != "" {
			out = append(out, Finding{Name: "old slot", State: string(cdc.Warn), Why: why, Mend: mend})
		}
	}
	out = append(out, storeFinding(repo, o), refreshFinding(v, &o.Tuning))
	return append(out, historyFindings(v)...), nil
}

// wasThere makes of a missing slot or publication a fault: the log was fed by them, so
// changes are being missed, and attach would not bring them back.
func wasThere(found []Finding) {
	for i := range found {
		if f := &found[i]; (f.Name == "slot" || f.Name == "publication") && f.State == string(cdc.Warn) {
			f.State, f.Mend = string(cdc.Fail), "lifeboat run --new-base"
		}
	}
}

func historyFindings(v *history.View) []Finding {
	why := fmt.Sprintf("durable up to %s", v.Durable)
	if v.DurableTime != 0 {
		why += ", committed " + v.DurableTime.String()
	}
	out := []Finding{{Name: "history", State: "ok", Why: why}}
	if !v.Ready {
		out = append(out, Finding{Name: "first base", State: "warn", Why: "not every table has been copied yet, so nothing can be restored", Mend: "let `lifeboat run` go on; `lifeboat status` shows the tables"})
	}
	for _, i := range v.Incompletes {
		if i.Until == 0 {
			out = append(out, Finding{Name: "incomplete", State: "warn", Why: fmt.Sprintf("%s is not exact since %s: %s", i.Name, i.From, i.Reason), Mend: "let `lifeboat run` copy it again"})
		}
	}
	out = append(out, alarmFindings(v)...)
	for _, m := range v.Mismatches {
		out = append(out, Finding{
			Name: "proof", State: "fail", Mend: "restore points of this table in the interval are in doubt; it was copied again at its end",
			Why: fmt.Sprintf("%s between %s and %s: a copy did not have the digest that the records predicted (%s)", m.Name, m.From, m.Until, m.Reason),
		})
	}
	return out
}
