package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/durable"
	"lifeboat.im/lifeboat/record"
)

// adoptingFile names the lineage that an adoption is about to open, so that one that
// was cut short is gone on with and leaves no second branch.
const adoptingFile = "adopting"

// adopt decides which lineage is opened for the database, and which one it left at
// which commit. Nothing is changed at the source yet.
func (a *agent) adopt(ctx context.Context, repo *history.Repository) (history.LineageID, error) {
	old, err := Lineage(a.o.State)
	attached := err == nil
	if err != nil && !errors.Is(err, ErrNotAttached) {
		return old, err
	}
	slot, err := a.source.Slot(ctx)
	if err != nil {
		return old, err
	}
	if err := ownSlot(slot, a.o.Source.Slot, a.identity.Database); err != nil {
		return old, err
	}
	if err := a.findParent(ctx, repo, old, attached); err != nil {
		return old, err
	}
	id, err := readLineage(a.o.State, adoptingFile)
	if err == nil && id.Source == a.identity.Source && id != old {
		return id, nil
	}
	if err != nil && !errors.Is(err, ErrNotAttached) {
		return id, err
	}
	id = history.LineageID{Source: a.identity.Source, Lineage: record.NewLineage()}
	return id, writeLineage(a.o.State, adoptingFile, id)
}

// ownSlot refuses a slot that another database of the cluster, or another program,
// uses: slots have one name in the whole cluster. Nothing of ours drops such a one.
func ownSlot(slot *cdc.SlotState, name, database string) error {
	var whose string
	switch {
	case slot == nil, slot.Database == database && slot.Plugin == cdc.Plugin:
		return nil
	case slot.Database == "":
		whose = "is a physical one"
	case slot.Database == database:
		whose = fmt.Sprintf("is read with the plugin %q, so by another program", slot.Plugin)
	default:
		whose = fmt.Sprintf("belongs to database %q", slot.Database)
	}
	return fmt.Errorf("the slot %q %s, and a slot serves one database: write another name into the configuration, for instance `slot: %s`, and run the same command again. "+
		"The old slot keeps WAL: when the old database is not followed any more, SELECT pg_drop_replication_slot('%s'): %w",
		name, whose, otherSlot(name), name, cdc.ErrSlotForeign)
}

// otherSlot proposes a name beside a slot's.
func otherSlot(name string) string {
	base := strings.TrimRight(name, "0123456789")
	n := 2
	if _, err := fmt.Sscanf(name[len(base):], "%d", &n); err == nil {
		n++
	}
	if base == name {
		base += "_"
	}
	return fmt.Sprintf("%s%d", base, n)
}

// findParent learns what the database was made of: the trace of a restore in its
// comment says it exactly; without one it is what this host followed until now.
func (a *agent) findParent(ctx context.Context, repo *history.Repository, old history.LineageID, attached bool) error {
	var last *history.View
	if attached {
		v, err := repo.Log(a.secrets, old, nil).Load(ctx)
		if err != nil && !errors.Is(err, history.ErrNoLineage) {
			return err
		}
		last = v
	}
	traced, err := readTrace(ctx, a.source, repo, a.secrets, a.log)
	if err != nil {
		return err
	}
	if traced != nil {
		a.traced = true
		adopted, err := a.adoptedFrom(ctx, repo, last, traced.Parent)
		if err != nil {
			return err
		}
		if !adopted { // else an earlier adoption could not take the trace away
			a.opening.Parent, a.parent = &traced.Parent, traced.view
			return nil
		}
	}
	if !attached {
		if last, err = lastOf(ctx, repo, a.secrets, a.identity.Source); err != nil {
			return err
		}
	}
	if last == nil {
		return nil
	}
	at := last.Durable
	if last.ID.Source == a.identity.Source {
		pos, err := a.source.Now(ctx)
		if err != nil {
			return err
		}
		at = min(at, pos.Flush) // the server may have been set back to an older copy
	}
	a.opening.Parent, a.parent = &history.Parent{ID: last.ID, At: at}, last
	return nil
}

// adoptedFrom reports whether a branch of this very database, or one that it left, has
// the parent already.
func (a *agent) adoptedFrom(ctx context.Context, repo *history.Repository, last *history.View, parent history.Parent) (bool, error) {
	seen := map[history.LineageID]bool{}
	for v := last; v != nil && v.ID.Source == a.identity.Source && !seen[v.ID]; {
		seen[v.ID] = true
		p := v.Epochs[0].Parent
		if p == nil || *p == parent {
			return p != nil, nil
		}
		var err error
		if v, err = repo.Log(a.secrets, p.ID, nil).Load(ctx); err != nil {
			return false, err
		}
	}
	return false, nil
}

// lastOf gives the lineage that followed a source last, for a host whose state was
// lost: of those that no other one left, the one that came furthest; nil when there
// is none.
func lastOf(ctx context.Context, repo *history.Repository, s *history.Secrets, source record.Source) (*history.View, error) {
	ids, err := repo.Lineages(ctx)
	if err != nil {
		return nil, err
	}
	var all []*history.View
	left := map[history.LineageID]bool{}
	for _, id := range ids {
		if id.Source != source {
			continue
		}
		v, err := repo.Log(s, id, nil).Load(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
		if p := v.Epochs[0].Parent; p != nil {
			left[p.ID] = true
		}
	}
	var last *history.View
	for _, v := range all {
		if !left[v.ID] && (last == nil || v.Durable > last.Durable) {
			last = v
		}
	}
	return last, nil
}

// trace is what a restore left in the database's comment.
type trace struct {
	history.Parent
	view *history.View
}

// readTrace gives the trace, nil when there is none or when it names a lineage of
// another repository.
func readTrace(ctx context.Context, src *cdc.Source, repo *history.Repository, s *history.Secrets, log *slog.Logger) (*trace, error) {
	comment, err := src.Comment(ctx)
	if err != nil {
		return nil, err
	}
	p, _, ok := history.ParseTrace(comment)
	if !ok {
		return nil, nil
	}
	v, err := repo.Log(s, p.ID, nil).Load(ctx)
	if errors.Is(err, history.ErrNoLineage) {
		log.Warn("the database was restored from a repository that is not this one", "trace", p.Trace())
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &trace{Parent: p, view: v}, nil
}

// removeTrace takes the trace away once the log says the same. Without the right to
// comment it stays, and does no harm: a later adoption sees that it was read.
func removeTrace(ctx context.Context, src *cdc.Source, log *slog.Logger) {
	comment, err := src.Comment(ctx)
	if err == nil {
		_, rest, _ := history.ParseTrace(comment)
		if rest == comment {
			return
		}
		err = src.SetComment(ctx, rest)
	}
	if err != nil {
		log.Info("the database's comment still says what it was restored from", "reason", err.Error())
	}
}

// carry notes what the tables' replica identities were before us: for a table that
// still stands as the parent lineage left it, what the parent noted; for each other
// one that enters the publication, what it is now. One note, before anything changes.
func (a *agent) carry(ctx context.Context, cat *cdc.Catalog) error {
	n := history.Note{Kind: history.NoteIdentity}
	for i := range cat.Tables {
		t := &cat.Tables[i]
		if a.poller.noted[t.Relation.OID] || !t.Capturable {
			continue
		}
		if c, ok := a.parentNote(t); ok {
			n.Identities = append(n.Identities, c)
		} else if !t.InPublication || !t.Settled {
			n.Identities = append(n.Identities, identityChange(t))
		}
	}
	if len(n.Identities) == 0 {
		return nil
	}
	if err := a.writer.Note(ctx, n); err != nil {
		return err
	}
	for _, c := range n.Identities {
		a.poller.noted[c.Table] = true
	}
	return nil
}

// parentNote gives what the parent noted of a table and has not undone: found by oid
// in the same database, else by name (a dump or pg_upgrade carries identities along).
// A table that has its noted identity again, as after a restore, was put back.
func (a *agent) parentNote(t *cdc.Table) (history.IdentityChange, bool) {
	if a.parent == nil {
		return history.IdentityChange{}, false
	}
	same := a.parent.ID.Source == a.identity.Source
	i := slices.IndexFunc(a.parent.Identities, func(c history.IdentityChange) bool {
		if same {
			return c.Table == t.Relation.OID && !c.Undone
		}
		return c.Schema == t.Relation.Schema && c.Name == t.Relation.Name && !c.Undone
	})
	if i < 0 {
		return history.IdentityChange{}, false
	}
	c := a.parent.Identities[i]
	c.Table, c.Schema, c.Name = t.Relation.OID, t.Relation.Schema, t.Relation.Name
	return c, c.Old != t.Replident
}

// adopted is the end of an adoption: the lineage is open, and this host follows it.
func (a *agent) adopted(ctx context.Context, id history.LineageID) error {
	if err := saveLineage(a.o.State, id); err != nil {
		return err
	}
	// A crash here leaves a file that names the lineage that is followed: it is ignored.
	if err := forgetAdopting(a.o.State); err != nil {
		return err
	}
	if a.traced {
		removeTrace(ctx, a.source, a.log)
	}
	parent := "none"
	if p := a.writer.View().Epochs[0].Parent; p != nil {
		parent = p.ID.String() + " at lsn:" + p.At.String()
	}
	a.log.Info("a new lineage is open", "lineage", id.String(), "parent", parent)
	return nil
}

func forgetAdopting(dir string) error {
	if err := durable.Remove(filepath.Join(dir, adoptingFile)); err != nil {
		return fmt.Errorf("forget the adoption: %w", err)
	}
	return nil
}

// leftSlot names the slot that the branch which this one left had, if it is still
// there: nobody reads it any more, and it keeps WAL without end. "" when it is gone.
func leftSlot(ctx context.Context, src *cdc.Source, repo *history.Repository, s *history.Secrets, v *history.View, own string) (why, mend string, err error) {
	p := v.Epochs[0].Parent
	if p == nil || p.ID.SystemID != v.ID.SystemID {
		return "", "", nil
	}
	parent, err := repo.Log(s, p.ID, nil).Load(ctx)
	if err != nil {
		return "", "", err
	}
	name := parent.Epochs[len(parent.Epochs)-1].Slot
	if name == "" || name == own {
		return "", "", nil
	}
	slot, err := src.OtherSlot(ctx, name)
	if err != nil || slot == nil || slot.ActivePID != 0 {
		return "", "", err
	}
	return fmt.Sprintf("the slot %q of database %q, from which this one was restored, keeps %d MiB of WAL and nobody reads it", name, slot.Database, slot.RetainedBytes>>20),
		fmt.Sprintf("when the old database is not followed any more: SELECT pg_drop_replication_slot('%s')", name), nil
}
