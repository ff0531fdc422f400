package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// recovered is what the log says of the tables at its durable position, by oid.
type recovered map[uint32]*history.TableState

func (r recovered) list() []history.TableState {
	out := make([]history.TableState, 0, len(r))
	for _, oid := range slices.Sorted(maps.Keys(r)) {
		out = append(out, *r[oid])
	}
	return out
}

func (r recovered) forget() {
	for _, s := range r {
		s.Known = false
	}
}

// recover computes the running digests at the view's durable position: those of
// the last epoch's entry, moved by its segments; for a table that was copied in
// this epoch, from its base on. Without the epoch's key nothing is known, and the
// proof begins again with the next copies.
func (a *agent) recover(ctx context.Context, view *history.View) (recovered, error) {
	out := recovered{}
	last := view.Epochs[len(view.Epochs)-1]
	states, err := view.Tables(ctx, last)
	if errors.Is(err, history.ErrNoKey) {
		a.log.Warn("the last epoch's key is not on this host: digests begin again with the next copies")
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	for i := range states {
		out[states[i].Table] = &states[i]
	}
	for _, info := range view.Segments {
		if info.Epoch != last.Epoch {
			continue
		}
		seg, err := view.Segment(ctx, info)
		if err != nil {
			return nil, err
		}
		for i := range seg.Changes {
			out.change(seg.Relations[seg.Changes[i].Relation].OID, &seg.Changes[i])
		}
	}
	if err := a.recoverBases(ctx, view, last.Epoch, out); err != nil {
		return nil, err
	}
	return out, a.recoverSchema(ctx, view, last.Epoch, out)
}

func (r recovered) change(oid uint32, ch *record.Change) {
	s := r[oid]
	if s == nil {
		s = &history.TableState{Table: oid}
		r[oid] = s
	}
	if ch.Reset {
		s.Digest = ch.Digest
	} else {
		s.Digest.Add(ch.Digest)
	}
	s.Known = s.Known && !ch.Unknown
	s.RecordBytes += ch.Bytes
}

// recoverBases restarts the digest of each table that was copied in the epoch:
// the base's, and the records of the transactions that its snapshot did not see.
func (a *agent) recoverBases(ctx context.Context, view *history.View, epoch uint64, out recovered) error {
	newest := map[uint32]history.BaseInfo{}
	for _, b := range view.Bases {
		if old, ok := newest[b.Table]; b.Epoch == epoch && (!ok || old.Before(b.Position)) {
			newest[b.Table] = b
		}
	}
	type running struct {
		snap   record.Snapshot
		hasher *record.Hasher
		from   record.LSN
		state  *history.TableState
		shape  *record.Relation
	}
	tables := map[uint32]*running{}
	after := view.Durable
	for oid, info := range newest {
		b, err := view.Base(ctx, info)
		if err != nil {
			return err
		}
		if b.ExactFrom > view.Durable {
			// The copy is ahead of what is durable: the stream brings commits again that its
			// digest holds already. The running digest at the durable position is the one
			// that the copy was held against, if there was one.
			if s := out[oid]; s != nil {
				s.Fingerprint, s.Member = b.Fingerprint, b.Member
			} else {
				out[oid] = &history.TableState{Table: oid, Fingerprint: b.Fingerprint, Member: b.Member}
			}
			continue
		}
		s := &history.TableState{Table: oid, Digest: b.Digest, Known: b.Relation.Identity == record.Full, Fingerprint: b.Fingerprint, Member: b.Member}
		out[oid] = s
		tables[oid] = &running{
			snap: b.Snapshot, from: b.RecordsFrom, state: s, shape: &b.Relation,
			hasher: record.NewHasher(a.secrets.Digest[:], b.Relation.Schema, b.Relation.Name),
		}
		after = min(after, b.RecordsFrom)
	}
	if len(tables) == 0 {
		return nil
	}
	want := func(oid uint32) bool { return tables[oid] != nil }
	err := view.Records(ctx, after, view.Durable, want, func(t *record.Transaction, rel *record.Relation, r *record.Record) error {
		k := tables[rel.OID]
		if t.End <= k.from || k.snap.Sees(t.XID) {
			return nil
		}
		if !rel.SameShape(k.shape) || rel.String() != k.shape.String() || rel.Identity != record.Full {
			k.state.Known = false
			return nil
		}
		if r.Op == record.Truncate {
			k.state.Digest = record.Digest{}
			return nil
		}
		for i, l := range []record.Line{r.Old, r.New} {
			if l.Absent() {
				continue
			}
			text, err := view.Line(ctx, l)
			if err != nil {
				return err
			}
			k.state.RecordBytes += uint64(len(text))
			if i == 0 {
				k.state.Digest.Sub(k.hasher.Line(text))
			} else {
				k.state.Digest.Add(k.hasher.Line(text))
			}
		}
		if r.Op == record.Update && r.Old.Absent() {
			k.state.Known = false
		}
		return nil
	})
	if errors.Is(err, history.ErrNoKey) {
		// A copy began in an epoch that is merged and closed to this host by now.
		a.log.Warn("records before this epoch cannot be opened on this host: the digests of its copies begin again with the next ones")
		for _, k := range tables {
			k.state.Known = false
		}
		return nil
	}
	return err
}

// recoverSchema takes fingerprints that nothing else knows from a schema note of
// the epoch.
func (a *agent) recoverSchema(ctx context.Context, view *history.View, epoch uint64, out recovered) error {
	for _, info := range view.Schemas {
		if info.Epoch != epoch {
			continue
		}
		s, err := view.Schema(ctx, info)
		if err != nil {
			return err
		}
		for _, t := range s.Tables {
			if st := out[t.OID]; st != nil && st.Fingerprint == [32]byte{} {
				st.Fingerprint = t.Fingerprint
			} else if st == nil && t.Captured {
				out[t.OID] = &history.TableState{Table: t.OID, Fingerprint: t.Fingerprint}
			}
		}
	}
	return nil
}

// resume fills the capture's tables from the log. The first look at the catalog
// then compares each with what is there.
// durable is where the log stood before this epoch.
func (a *agent) resume(view *history.View, durable record.LSN, known recovered, gap bool) error {
	c := a.capture
	if view == nil {
		c.certain = a.opening.Durable
		return nil
	}
	if n := len(view.Schemas); n > 0 {
		s := view.Schemas[n-1]
		a.poller.schema, c.certain = s.Fingerprint, max(s.From, s.Until)
	} else {
		c.certain = view.Durable
	}
	if gap {
		c.certain = durable
		a.poller.schema = [32]byte{}
	}
	dropped := map[uint32]record.LSN{}
	for _, d := range view.Dropped {
		dropped[d.Table] = d.At
	}
	for _, i := range view.Identities {
		a.poller.noted[i.Table], a.poller.huge[i.Table] = !i.Undone, i.Huge && !i.Undone
	}
	newest := map[uint32]history.BaseInfo{}
	for _, b := range view.Bases {
		if old, ok := newest[b.Table]; !ok || old.ExactFrom < b.ExactFrom {
			newest[b.Table] = b
		}
	}
	open := map[uint32]record.LSN{}
	for _, i := range view.Incompletes {
		if i.Until == 0 {
			open[i.Table] = i.From
		}
	}
	for oid, b := range newest {
		if dropped[oid] > b.ExactFrom {
			continue
		}
		schema, name, err := splitName(b.Name)
		if err != nil {
			return err
		}
		t := &table{
			oid: oid, rel: &record.Relation{OID: oid, Schema: schema, Name: name},
			live: b.Rows, baseBytes: b.Bytes, exactFrom: b.ExactFrom, copied: b.Time.Time(), resumed: true,
		}
		if s := known[oid]; s != nil {
			t.digest, t.known, t.recordBytes, t.fingerprint, t.member = s.Digest, s.Known, s.RecordBytes, s.Fingerprint, s.Member
			if s.Known {
				t.live = s.Digest.Count
			}
		}
		if from, ok := open[oid]; ok {
			t.open, t.openFrom, t.wanted = true, from, "it was incomplete when the agent stopped"
		}
		c.tables[oid] = t
		if gap {
			c.suspect(t, "the slot was lost: changes in between could not be had")
		} else if a.o.NewBase {
			t.wanted = "a new base was asked for"
		}
	}
	c.resumeAlarms(view.Alarms)
	return a.resumeUncopied(view)
}

// resumeUncopied brings in the tables that are open in the log and have no base: one
// that was dropped since must be noted as gone, or its interval stays open for ever.
func (a *agent) resumeUncopied(view *history.View) error {
	for _, i := range view.Incompletes {
		if i.Until != 0 || i.Table == 0 || a.capture.tables[i.Table] != nil {
			continue
		}
		schema, name, err := splitName(i.Name)
		if err != nil {
			return err
		}
		a.capture.tables[i.Table] = &table{
			oid: i.Table, rel: &record.Relation{OID: i.Table, Schema: schema, Name: name},
			open: true, openFrom: i.From, wanted: "its first base", resumed: true,
		}
	}
	return nil
}

// splitName takes schema.name apart at the first dot that leaves both parts; the
// real names follow from the catalog, by oid, before any row is stored.
func splitName(s string) (schema, name string, err error) {
	for i := range len(s) {
		if s[i] == '.' {
			return s[:i], s[i+1:], nil
		}
	}
	return "", "", fmt.Errorf("base of %q: not a table's name: %w", s, record.ErrCorrupt)
}
