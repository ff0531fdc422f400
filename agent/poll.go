package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// pollIdle is how often the catalog is looked at without traffic; with traffic it
// is after each flush.
const pollIdle = 15 * time.Second

// pollMark is one look at an unchanged catalog. Everything before the LSN becomes
// certain once a later look sees every transaction that might have been hidden
// from this one.
type pollMark struct {
	before record.LSN
	open   record.XID // the look's horizon
}

// poller follows the catalog: what changed is never guessed through (protocol §4).
type poller struct {
	a *agent
	// fingerprint is that of the newest look, schema that of the newest schema note.
	fingerprint, schema [32]byte
	members             [32]byte // as of the newest look
	marks               []pollMark
	noted               map[uint32]bool // identities that a note announced
	huge                map[uint32]bool // tables of which a note says that they hold huge rows
	retry               bool
	waiting             bool              // a dump is due and waits; the log says so once
	ready               bool              // NoteReady is in the log
	refused             map[uint32]string // tables that cannot be captured, as logged
}

func (p *poller) run(ctx context.Context) error {
	tick := time.NewTicker(pollIdle)
	defer tick.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		p.retry = false
		if err := p.look(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch the catalog: %w", err)
		}
		again.Stop()
		if p.retry {
			again.Reset(time.Second)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.a.capture.asked:
		case <-again.C:
		case <-tick.C:
		}
	}
}

// look reads the catalog once and acts on what differs.
func (p *poller) look(ctx context.Context) error {
	a := p.a
	cat, err := p.catalog(ctx)
	if err != nil {
		return err
	}
	a.capture.prune(cat.Snapshot.XMin)
	a.stream.SetNear(cat.Snapshot.XMax)
	p.certain(cat)
	if err := p.noteHuge(ctx, cat); err != nil {
		return err
	}
	for i := range cat.Tables {
		ct := &cat.Tables[i]
		if !p.compare(ct) || (ct.InPublication && ct.Settled) || cat.Publication != nil {
			continue
		}
		if err := p.enter(ctx, ct); err != nil {
			return err
		}
	}
	if cat.Publication != nil { // the log says of every table that it is incomplete, then we stop
		return errors.Join(fmt.Errorf("tables are not captured any more: %w", cat.Publication), a.writeNotes(ctx))
	}
	if err := p.dropped(ctx, cat); err != nil {
		return err
	}
	a.copier.offer(cat)
	if err := p.dump(ctx, cat); err != nil {
		return err
	}
	return p.markReady(ctx, cat)
}

// catalog reads the catalog. A table that stands at a minimal identity may do so
// because of its huge rows, which a new session must find again.
func (p *poller) catalog(ctx context.Context) (*cdc.Catalog, error) {
	cat, err := p.a.source.Catalog(ctx)
	if err != nil {
		return nil, err
	}
	again := false
	for i := range cat.Tables {
		ct := &cat.Tables[i]
		if !ct.Capturable || !ct.InPublication || ct.Settled {
			continue
		}
		huge, err := p.a.source.LookForHugeRow(ctx, ct)
		if err != nil && !errors.Is(err, cdc.ErrBusy) && !errors.Is(err, cdc.ErrGone) {
			return nil, err
		}
		again = again || huge
	}
	if again {
		return p.a.source.Catalog(ctx)
	}
	return cat, nil
}

// first compares the catalog with what the log says before the stream begins, so
// that its rows find their tables. It gives the catalog.
func (p *poller) first(ctx context.Context) (*cdc.Catalog, error) {
	cat, err := p.catalog(ctx)
	if err != nil {
		return nil, err
	}
	for i := range cat.Tables {
		if cat.Tables[i].InPublication {
			p.compare(&cat.Tables[i])
		}
	}
	return cat, nil
}

// noteHuge keeps in the log which tables hold huge rows: a later agent may not be
// able to see it from their sizes as stored, and would set identity full again.
func (p *poller) noteHuge(ctx context.Context, cat *cdc.Catalog) error {
	for i := range cat.Tables {
		ct := &cat.Tables[i]
		if !ct.Huge || p.huge[ct.Relation.OID] {
			continue
		}
		n := history.Note{Kind: history.NoteIdentity, Identities: []history.IdentityChange{identityChange(ct)}}
		if err := p.a.writer.Note(ctx, n); err != nil {
			return err
		}
		p.noted[ct.Relation.OID], p.huge[ct.Relation.OID] = true, true
		p.a.log.Info("table holds rows over 256 MiB: identity minimal", "table", ct.Relation.String())
	}
	return nil
}

// tellHuge tells a source what the log of the same database knows of huge rows.
func tellHuge(src *cdc.Source, v *history.View) {
	for _, i := range v.Identities {
		if i.Huge {
			src.FoundHugeRow(i.Table)
		}
	}
}

// markReady notes that every table of the beginning has its base: from here on the
// lineage can be restored.
func (p *poller) markReady(ctx context.Context, cat *cdc.Catalog) error {
	if p.ready || p.schema != cat.Fingerprint {
		return nil
	}
	c := p.a.capture
	c.mu.Lock()
	for i := range cat.Tables {
		if t := c.tables[cat.Tables[i].Relation.OID]; cat.Tables[i].Capturable && (t == nil || t.exactFrom == 0) {
			c.mu.Unlock()
			return nil
		}
	}
	c.mu.Unlock()
	if err := p.a.writer.Note(ctx, history.Note{Kind: history.NoteReady}); err != nil {
		return err
	}
	p.ready = true
	p.a.log.Info("every table has its base: restorable from here on", "tables", len(cat.Tables))
	return nil
}

// certain moves the position up to which the catalog is known to have been as the
// newest schema note says.
func (p *poller) certain(cat *cdc.Catalog) {
	a := p.a
	if cat.Fingerprint != p.fingerprint || cat.Members != p.members {
		p.fingerprint, p.members, p.marks = cat.Fingerprint, cat.Members, nil
	}
	c := a.capture
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(p.marks) > 0 && p.marks[0].open <= cat.Snapshot.XMin {
		if p.fingerprint == p.schema {
			c.certain = max(c.certain, p.marks[0].before)
		}
		p.marks = p.marks[1:]
	}
	p.marks = append(p.marks, pollMark{before: cat.Before, open: cat.Horizon})
}

// compare holds one table against what is known of it; false when it cannot be
// captured.
func (p *poller) compare(ct *cdc.Table) bool {
	c := p.a.capture
	oid := ct.Relation.OID
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tables[oid]
	if !ct.Capturable {
		if p.refused[oid] != ct.Reason {
			p.refused[oid] = ct.Reason
			p.a.log.Warn("table cannot be captured", "table", ct.Relation.String(), "reason", ct.Reason)
		}
		if t != nil {
			c.suspectLocked(t, "it cannot be captured any more: "+ct.Reason)
		}
		return false
	}
	rel := ct.Relation
	switch {
	case t == nil:
		t = &table{oid: oid, member: ct.Member, wanted: "its first base"}
		c.tables[oid] = t
		t.learn(&rel, ct)
		if p.ready {
			c.suspectLocked(t, "a new table")
		}
		return true
	case t.resumed && t.fingerprint == ct.Fingerprint:
		t.learn(&rel, ct)
	case !t.resumed && t.fingerprint == ct.Fingerprint && t.rel.SameShape(&rel) && t.rel.String() == rel.String():
		if t.rel.Identity != rel.Identity { // rows stay what they are; with a minimal identity they are not proved by records
			t.known = false
		}
		t.learn(&rel, ct)
	case t.fingerprint != ct.Fingerprint || !t.rel.Equal(&rel):
		// A copy that still meets the digest proves that no row changed.
		known := t.known && !t.resumed && t.rel.SameShape(&rel) && t.rel.String() == rel.String()
		if t.exactFrom != 0 {
			c.suspectLocked(t, "its definition changed")
		}
		t.learn(&rel, ct)
		t.known = known
	}
	why, known := "", false
	switch {
	case ct.InPublication && !ct.Settled && ct.Wanted == record.Full:
		why = "its replica identity was changed by somebody else"
	case !ct.InPublication:
		why = "it was taken out of the publication by somebody else"
	case t.member != "" && t.member != ct.Member:
		// A copy that still meets the digest proves that no row was lost.
		why, known = "it was taken out of the publication by somebody else, and added again", t.known
	}
	switch {
	case why == "":
	case t.exactFrom != 0:
		c.suspectLocked(t, why)
		t.known = known
	default:
		c.copyAgain(oid, why)
	}
	t.member = ct.Member
	return true
}

func (t *table) learn(rel *record.Relation, ct *cdc.Table) {
	t.rel, t.generated, t.fingerprint, t.resumed = rel, ct.GeneratedColumns, ct.Fingerprint, false
}

// enter brings a table into the publication; a note says so before.
func (p *poller) enter(ctx context.Context, ct *cdc.Table) error {
	a := p.a
	huge, err := a.source.LookForHugeRow(ctx, ct)
	if huge || errors.Is(err, cdc.ErrBusy) || errors.Is(err, cdc.ErrGone) {
		p.retry = true // the next look at the catalog says minimal, or tries again
		return nil
	}
	if err != nil {
		return err
	}
	if !p.noted[ct.Relation.OID] {
		n := history.Note{Kind: history.NoteIdentity, Identities: []history.IdentityChange{identityChange(ct)}}
		if err := a.writer.Note(ctx, n); err != nil {
			return err
		}
		p.noted[ct.Relation.OID] = true
	}
	err = a.source.Enter(ctx, *ct)
	switch {
	case err == nil:
		a.log.Info("table entered the publication", "table", ct.Relation.String(), "identity", string(rune(ct.Wanted)))
		p.retry = true // look again: it is in now, and can be copied
		return nil
	case errors.Is(err, cdc.ErrBusy), errors.Is(err, cdc.ErrYield), errors.Is(err, cdc.ErrChanged), errors.Is(err, cdc.ErrGone):
		a.log.Info("table waits to enter the publication", "table", ct.Relation.String(), "reason", err.Error())
		p.retry = true
		return nil
	case errors.Is(err, cdc.ErrNotCapturable):
		a.log.Warn("table cannot enter the publication", "table", ct.Relation.String(), "reason", err.Error())
		return nil
	}
	return err
}

func identityChange(ct *cdc.Table) history.IdentityChange {
	return history.IdentityChange{
		Table: ct.Relation.OID, Schema: ct.Relation.Schema, Name: ct.Relation.Name,
		Old: ct.Replident, Index: ct.ReplidentIndex, Huge: ct.Huge,
	}
}

// dropped forgets the tables that are gone.
func (p *poller) dropped(ctx context.Context, cat *cdc.Catalog) error {
	c := p.a.capture
	c.mu.Lock()
	var gone []*table
	for oid, t := range c.tables {
		if cat.Table(oid) == nil {
			gone = append(gone, t)
			delete(c.tables, oid)
		}
	}
	from := c.certain
	c.mu.Unlock()
	for _, t := range gone {
		n := history.Note{Kind: history.NoteDropped, Table: t.oid, Name: t.name(), From: cat.After, Reason: "dropped"}
		if err := p.a.writer.Note(ctx, n); err != nil {
			return err
		}
		p.a.log.Info("table dropped", "table", t.name(), "between", from.String(), "and", cat.After.String())
	}
	return nil
}

// dump stores the schema when it is not the one of the newest schema note.
func (p *poller) dump(ctx context.Context, cat *cdc.Catalog) error {
	a := p.a
	if cat.Fingerprint == p.schema {
		return nil
	}
	d, err := a.source.DumpSchema(ctx, cdc.DumpOptions{Bin: a.o.Source.PgBin})
	switch {
	case errors.Is(err, cdc.ErrBusy), errors.Is(err, cdc.ErrChanged), errors.Is(err, cdc.ErrYield):
		level := slog.LevelInfo
		if p.waiting {
			level = slog.LevelDebug
		}
		a.log.Log(ctx, level, "schema dump waits until the schema is quiet", "reason", err.Error())
		p.retry, p.waiting = true, true
		return nil
	case err != nil:
		return fmt.Errorf("dump the schema: %w", err)
	}
	p.waiting = false
	seqs, err := a.source.Sequences(ctx)
	if err != nil {
		return fmt.Errorf("read sequences: %w", err)
	}
	from, err := a.source.Settle(ctx, d.Catalog.After, a.now(), a.capture.position)
	if err != nil {
		return err
	}
	s := &history.Schema{
		Fingerprint: d.Catalog.Fingerprint, From: from, Sequences: seqs,
		Publication: a.o.Source.Publication, ServerVersion: a.identity.Version,
	}
	for i := range d.Catalog.Tables {
		t := &d.Catalog.Tables[i]
		s.Tables = append(s.Tables, history.SchemaTable{
			OID: t.Relation.OID, Schema: t.Relation.Schema, Name: t.Relation.Name,
			Kind: 'r', Fingerprint: t.Fingerprint, Captured: t.Capturable,
		})
	}
	var reach []chunkstore.Name
	for _, part := range []struct {
		b  []byte
		to *[]record.Extent
	}{{d.Custom, &s.Custom}, {d.Plain, &s.Plain}} {
		extents, names, err := putBytes(ctx, a.store, part.b, false)
		if err != nil {
			return err
		}
		*part.to, reach = extents, append(reach, names...)
	}
	err = a.writer.SchemaNote(ctx, s, slices.Compact(reach))
	if condemned(err) {
		a.log.Info("schema dump begins again", "reason", err.Error())
		p.retry = true
		return nil
	}
	if err != nil {
		return err
	}
	p.schema = d.Catalog.Fingerprint
	c := a.capture
	c.mu.Lock()
	c.certain = max(c.certain, from)
	c.mu.Unlock()
	a.log.Info("schema stored", "from", from.String(), "tables", len(s.Tables))
	a.progress()
	if d.Catalog.Fingerprint != cat.Fingerprint {
		p.retry = true
	}
	return nil
}
