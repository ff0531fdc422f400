package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// attachWait bounds how long Attach tries to bring one table in.
const attachWait = time.Minute

// Attach makes the source ready: the publication, the slot, the lineage, and each
// table in the publication with its identity. It prints what it would do when dry.
// It may be called again after any crash or failure: what stands is left alone.
func Attach(ctx context.Context, repo *history.Repository, s *history.Secrets, o Options, dry bool) ([]Step, error) {
	o = o.defaults()
	src, id, err := o.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer src.Close(context.WithoutCancel(ctx))
	slot, err := src.Slot(ctx)
	if err != nil {
		return nil, err
	}
	lin, err := attachLineage(o, id, slot)
	if err != nil {
		return nil, err
	}
	if err := attachAgain(ctx, repo.Log(s, lin, nil), src, slot, o); err != nil {
		return nil, err
	}
	cat, err := attachCatalog(ctx, src)
	if err != nil {
		return nil, err
	}
	steps := attachSteps(src, cat, slot, o)
	if dry {
		return steps, nil
	}
	// A crash from here on leaves a lineage without entries; the next attach goes on
	// with it, and with the slot if it was made.
	if err := saveLineage(o.State, lin); err != nil {
		return nil, err
	}
	if err := src.CreatePublication(ctx); err != nil { // before the slot: the slot decodes with the catalog of its time
		return nil, err
	}
	log, err := attachLog(ctx, repo, s, o, src, lin, slot)
	if err != nil {
		return nil, err
	}
	return steps, attachTables(ctx, log, o, src, cat)
}

// attachLineage gives the lineage that this host follows, a new one when there is none.
func attachLineage(o Options, id cdc.Identity, slot *cdc.SlotState) (history.LineageID, error) {
	lin, err := Lineage(o.State)
	foreign := ownSlot(slot, o.Source.Slot, id.Database)
	switch {
	case errors.Is(err, ErrNotAttached) && foreign != nil, err == nil && lin.Source == id.Source && foreign != nil:
		return lin, foreign
	case errors.Is(err, ErrNotAttached) && slot != nil:
		return lin, fmt.Errorf("the slot %q exists already, and this host did not make it: another agent may use it; name another slot, or drop it with SELECT pg_drop_replication_slot('%s'): %w",
			o.Source.Slot, o.Source.Slot, ErrForeignSource)
	case errors.Is(err, ErrNotAttached):
		return history.LineageID{Source: id.Source, Lineage: record.NewLineage()}, nil
	case err != nil:
		return lin, err
	case lin.Source != id.Source:
		return lin, fmt.Errorf("this database is %s, the lineage of %s follows %s: if it was restored or replaced on purpose, `lifeboat run --adopt` prepares it by itself and opens its branch; a second database needs a state directory of its own: %w",
			id.Source, o.State, lin.Source, ErrForeignSource)
	}
	return lin, nil
}

// attachAgain looks at the log of a database that is attached, or was: without its
// slot it goes on by a new base only, and run makes all that attach would.
func attachAgain(ctx context.Context, log *history.Log, src *cdc.Source, slot *cdc.SlotState, o Options) error {
	view, err := log.Load(ctx)
	if errors.Is(err, history.ErrNoLineage) {
		return nil
	}
	if err != nil {
		return err
	}
	if slot == nil {
		return fmt.Errorf("the history of this database ends at %s, and its slot %q is gone (`lifeboat detach` took it away, or somebody dropped it): what has changed since cannot be had. "+
			"Nothing was changed now, and attach is not needed: `lifeboat run --new-base` makes the slot, brings the tables in, copies each of them again, and names the gap: %w",
			view.Durable, o.Source.Slot, ErrSourceLost)
	}
	tellHuge(src, view)
	return nil
}

// attachCatalog reads the catalog, again when a table turned out to hold rows that
// are too large for identity full.
func attachCatalog(ctx context.Context, src *cdc.Source) (*cdc.Catalog, error) {
	cat, err := src.Catalog(ctx)
	if err != nil {
		return nil, err
	}
	again := false
	for i := range cat.Tables {
		t := &cat.Tables[i]
		if !t.Capturable || (t.InPublication && t.Settled) {
			continue
		}
		huge, err := src.LookForHugeRow(ctx, t)
		if err != nil && !errors.Is(err, cdc.ErrGone) {
			return nil, err
		}
		again = again || huge
	}
	if again {
		return src.Catalog(ctx)
	}
	return cat, nil
}

func attachSteps(src *cdc.Source, cat *cdc.Catalog, slot *cdc.SlotState, o Options) []Step {
	steps := []Step{{Why: "the list of captured tables", SQL: src.PublicationSQL()}}
	if slot == nil {
		steps = append(steps, Step{
			Why: "PostgreSQL keeps WAL from here on until it is in the repository",
			SQL: fmt.Sprintf("CREATE_REPLICATION_SLOT %s LOGICAL pgoutput", o.Source.Slot),
		})
	}
	for i := range cat.Tables {
		t := &cat.Tables[i]
		switch {
		case !t.Capturable:
			steps = append(steps, Step{Why: fmt.Sprintf("%s is not captured: %s", t.Relation.String(), t.Reason)})
		case !t.InPublication || !t.Settled:
			why := "whole old rows are logged, so that every record is complete"
			if t.Wanted == record.Minimal {
				why = "minimal identity: " + t.Why
			}
			steps = append(steps, Step{Why: t.Relation.String() + ": " + why, SQL: src.EnterSQL(*t)})
		}
	}
	return steps
}

// attachLog gives the lineage's log with its first epoch, and the slot.
func attachLog(ctx context.Context, repo *history.Repository, s *history.Secrets, o Options, src *cdc.Source, lin history.LineageID, slot *cdc.SlotState) (*history.Log, error) {
	keys, err := epochKeys(o.State, lin)
	if err != nil {
		return nil, err
	}
	log := repo.Log(s, lin, keys)
	if _, err = log.Load(ctx); !errors.Is(err, history.ErrNoLineage) {
		return log, err
	}
	var begins record.LSN
	if slot != nil {
		begins = slot.Confirmed
	} else if begins, err = src.CreateSlot(ctx); err != nil {
		return nil, err
	}
	pos, err := src.Now(ctx)
	if err != nil {
		return nil, err
	}
	id, err := src.Identify(ctx)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	opening := history.Opening{
		Timeline: id.Timeline, Slot: o.Source.Slot, ServerVersion: id.Version,
		XMax: pos.Horizon, Durable: begins, Host: host,
	}
	traced, err := readTrace(ctx, src, repo, s, o.Log)
	if err != nil {
		return nil, err
	}
	if traced != nil { // a restored database on a new host: a branch like an adopted one
		opening.Parent = &traced.Parent
	}
	if _, err = log.Begin(ctx, nil, keys, opening); err != nil {
		return nil, err
	}
	if traced != nil {
		removeTrace(ctx, src, o.Log)
	}
	return log, nil
}

// attachTables says in the log which identities are about to change, then brings
// each table in. Tables that stay busy are left to `lifeboat run`.
func attachTables(ctx context.Context, log *history.Log, o Options, src *cdc.Source, cat *cdc.Catalog) error {
	view, err := log.Load(ctx)
	if err != nil {
		return err
	}
	noted := map[uint32]bool{}
	for _, i := range view.Identities {
		noted[i.Table] = !i.Undone
	}
	note := history.Note{Kind: history.NoteIdentity}
	var enter []cdc.Table
	for i := range cat.Tables {
		t := &cat.Tables[i]
		if !t.Capturable || (t.InPublication && t.Settled) {
			continue
		}
		enter = append(enter, *t)
		if !noted[t.Relation.OID] {
			note.Identities = append(note.Identities, identityChange(t))
		}
	}
	if len(note.Identities) > 0 {
		if err := appendNote(ctx, log, view, note, o.Now); err != nil {
			return err
		}
	}
	var left []string
	for i := range enter {
		if err := enterPatiently(ctx, src, enter[i], o.Now); err != nil {
			if !errors.Is(err, cdc.ErrBusy) && !errors.Is(err, cdc.ErrYield) && !errors.Is(err, cdc.ErrGone) && !errors.Is(err, cdc.ErrChanged) {
				return err
			}
			left = append(left, enter[i].Relation.String())
		}
		o.Progress()
	}
	if len(left) > 0 {
		o.Log.Warn("tables in use: `lifeboat run` brings them in", "tables", strings.Join(left, ", "))
	}
	return nil
}

func enterPatiently(ctx context.Context, src *cdc.Source, t cdc.Table, now func() time.Time) error {
	until := now().Add(attachWait)
	for {
		err := src.Enter(ctx, t)
		if err == nil || !errors.Is(err, cdc.ErrBusy) && !errors.Is(err, cdc.ErrYield) || now().After(until) {
			return err
		}
		timer := time.NewTimer(500 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// Detach undoes what Attach and Run changed at the source, and nothing else: the
// slot, each identity that a note says was ours, the publication.
func Detach(ctx context.Context, repo *history.Repository, s *history.Secrets, o Options, dry bool) ([]Step, error) {
	o = o.defaults()
	src, id, err := o.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer src.Close(context.WithoutCancel(ctx))
	lin, err := Lineage(o.State)
	if err != nil {
		return nil, err
	}
	if lin.Source != id.Source {
		return nil, fmt.Errorf("this database is %s, the lineage follows %s: %w", id.Source, lin.Source, ErrForeignSource)
	}
	log := repo.Log(s, lin, nil)
	view, err := log.Load(ctx)
	if err != nil && !errors.Is(err, history.ErrNoLineage) {
		return nil, err
	}
	slot, err := src.Slot(ctx)
	if err != nil {
		return nil, err
	}
	if err := ownSlot(slot, o.Source.Slot, id.Database); err != nil {
		return nil, err
	}
	var steps []Step
	if slot != nil {
		if slot.ActivePID != 0 {
			return nil, fmt.Errorf("the slot %q is in use by process %d: stop `lifeboat run` first: %w", o.Source.Slot, slot.ActivePID, ErrLater)
		}
		steps = append(steps, Step{Why: "PostgreSQL keeps no more WAL for us", SQL: fmt.Sprintf("SELECT pg_drop_replication_slot('%s')", o.Source.Slot)})
	}
	var undo []history.IdentityChange
	if view != nil {
		for _, i := range view.Identities {
			if !i.Undone {
				undo = append(undo, i)
				steps = append(steps, Step{Why: "the identity that " + i.Schema + "." + i.Name + " had", SQL: identitySQL(i)})
			}
		}
	}
	steps = append(steps, Step{Why: "the list of captured tables", SQL: fmt.Sprintf("DROP PUBLICATION %q", o.Source.Publication)})
	if dry {
		return steps, nil
	}
	return steps, undoAll(ctx, src, log, slot, undo)
}

func undoAll(ctx context.Context, src *cdc.Source, log *history.Log, slot *cdc.SlotState, undo []history.IdentityChange) error {
	if slot != nil {
		if err := src.DropSlot(ctx); err != nil {
			return err
		}
	}
	// The publication goes first: a table without identity must not be published.
	if err := src.DropPublication(ctx); err != nil {
		return err
	}
	var failed error
	for i := range undo {
		if err := src.RestoreIdentity(ctx, undo[i].Schema, undo[i].Name, undo[i].Old, undo[i].Index); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		undo[i].Undone = true
	}
	done := make([]history.IdentityChange, 0, len(undo))
	for _, u := range undo {
		if u.Undone {
			done = append(done, u)
		}
	}
	if len(done) > 0 {
		if err := log.AppendNote(ctx, history.Note{Kind: history.NoteIdentity, Identities: done}); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	if failed != nil {
		return fmt.Errorf("run `lifeboat detach` again: %w: %w", failed, ErrLater)
	}
	return nil
}

func identitySQL(i history.IdentityChange) string {
	table := fmt.Sprintf("ALTER TABLE ONLY %q.%q REPLICA IDENTITY ", i.Schema, i.Name)
	switch i.Old {
	case 'n':
		return table + "NOTHING"
	case 'f':
		return table + "FULL"
	case 'i':
		return table + fmt.Sprintf("USING INDEX %q", i.Index)
	}
	return table + "DEFAULT"
}
