package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lifeboat.im/lifeboat/history"
)

// ErrAmbiguous: several branches have the point that is asked for, and nothing says
// which one is meant.
var ErrAmbiguous = errors.New("more than one branch")

// Branches are the lineages that belong together.
type Branches struct {
	// Host is the branch that is meant where nothing else is said: the one that this
	// host follows, else the only one from which no other descends. nil: there are
	// several, and nothing says which.
	Host *history.View
	// All are Host, its ancestors nearest first, and then whoever else descends from
	// one of these; without a Host every log of the repository.
	All []*history.View
	// Damaged are those that cannot be read, of the whole repository: whether they belong
	// to the others is not known.
	Damaged []Damaged

	asked history.LineageID // the host's, zero: none
}

// ReadBranches reads the logs of a repository. host is the lineage that this host
// follows; the zero id when it follows none.
func ReadBranches(ctx context.Context, repo *history.Repository, s *history.Secrets, host history.LineageID) (*Branches, error) {
	all, damaged, err := AllBranches(ctx, repo, s)
	if err != nil {
		return nil, err
	}
	b := &Branches{All: all, Damaged: damaged, asked: host}
	if i := byID(all, host); i >= 0 {
		b.Host = all[i]
	} else if leaves := Leaves(all); len(leaves) == 1 && len(damaged) == 0 { // else the damaged one may be meant
		b.Host = leaves[0]
	}
	if b.Host != nil {
		b.All = relatives(all, b.Host)
	}
	return b, nil
}

// AllBranches reads every log of a repository, each branch after the one that it left;
// those that cannot be read are given apart.
func AllBranches(ctx context.Context, repo *history.Repository, s *history.Secrets) ([]*history.View, []Damaged, error) {
	ids, err := repo.Lineages(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list logs: %w", err)
	}
	var damaged []Damaged
	all := make([]*history.View, 0, len(ids))
	for _, id := range ids {
		v, err := repo.Log(s, id, nil).Load(ctx)
		if errors.Is(err, history.ErrNoLineage) {
			continue
		}
		if isDamage(err) {
			damaged = append(damaged, Damaged{id, err})
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read log %s: %w", id, err)
		}
		all = append(all, v)
	}
	out := make([]*history.View, 0, len(all))
	var add func(v *history.View)
	add = func(v *history.View) {
		out = append(out, v)
		for _, o := range all {
			if p := parentOf(o); p != nil && p.ID == v.ID && !slices.Contains(out, o) {
				add(o)
			}
		}
	}
	for _, v := range all {
		if line := Ancestors(all, v); !slices.Contains(out, v) {
			add(line[len(line)-1])
		}
	}
	return out, damaged, nil
}

// Leaves gives the views from which no other descends.
func Leaves(all []*history.View) []*history.View {
	return slices.DeleteFunc(slices.Clone(all), func(v *history.View) bool {
		return slices.ContainsFunc(all, func(o *history.View) bool {
			p := parentOf(o)
			return p != nil && p.ID == v.ID
		})
	})
}

func byID(all []*history.View, id history.LineageID) int {
	return slices.IndexFunc(all, func(v *history.View) bool { return v.ID == id })
}

func parentOf(v *history.View) *history.Parent {
	if len(v.Epochs) == 0 {
		return nil
	}
	return v.Epochs[0].Parent
}

// Ancestors gives a view and its ancestors among all, nearest first.
func Ancestors(all []*history.View, v *history.View) []*history.View {
	out := []*history.View{v}
	for p := parentOf(v); p != nil; p = parentOf(out[len(out)-1]) {
		i := byID(all, p.ID)
		if i < 0 || slices.Contains(out, all[i]) {
			break
		}
		out = append(out, all[i])
	}
	return out
}

// relatives gives host, its ancestors, and whoever shares one with it.
func relatives(all []*history.View, host *history.View) []*history.View {
	out := Ancestors(all, host)
	root := out[len(out)-1]
	for _, v := range all {
		line := Ancestors(all, v)
		if line[len(line)-1] == root && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// Family gives one of the branches, its ancestors nearest first, and then whoever else
// descends from one of these.
func (b *Branches) Family(of *history.View) []*history.View { return relatives(b.All, of) }

// Resolve finds the target's commit among the branches. A position, a transaction or
// a mark is looked for in all of them, and [ErrAmbiguous] says that several have it.
// A time and latest mean the host's branch; a time before its beginning means the
// nearest ancestor that was followed then.
func (b *Branches) Resolve(ctx context.Context, t Target) (*history.View, Point, error) {
	if len(b.All) == 0 {
		if err := b.broken(); err != nil {
			return nil, Point{}, err
		}
		return nil, Point{}, fmt.Errorf("resolve %s: %w: nothing was backed up yet", t, history.ErrNoLineage)
	}
	if t.Kind == Latest || t.Kind == ByTime {
		return b.resolveAlong(ctx, t)
	}
	var found []*history.View
	var point Point
	var first error
	for _, v := range b.All {
		p, err := t.Resolve(ctx, v)
		switch {
		case err == nil:
			if found = append(found, v); len(found) == 1 {
				point = p
			}
		case !errors.Is(err, ErrNoPoint):
			return nil, p, err
		case first == nil:
			first = err
		}
	}
	switch {
	case len(found) == 1:
		return found[0], point, nil
	case len(found) > 1:
		return nil, point, ambiguous(t, found)
	case len(b.Damaged) > 0:
		return nil, point, fmt.Errorf("%w; %w", first, b.Damaged[0].Err)
	case len(b.All) == 1:
		return nil, point, first
	}
	return nil, point, fmt.Errorf("%w; none of the other branches has it either", first)
}

// Line gives the host's branch and those that it left, the nearest first;
// [ErrAmbiguous] when nothing says which branch is the host's.
func (b *Branches) Line() ([]*history.View, error) {
	if err := b.broken(); err != nil {
		return nil, err
	}
	if b.Host == nil {
		return nil, fmt.Errorf("%w: say which one is meant: %s", ErrAmbiguous, choices(Leaves(b.All)))
	}
	return Ancestors(b.All, b.Host), nil
}

// resolveAlong is Resolve for what every branch could answer.
func (b *Branches) resolveAlong(ctx context.Context, t Target) (*history.View, Point, error) {
	if err := b.broken(); err != nil {
		return nil, Point{}, err
	}
	if b.Host == nil {
		return nil, Point{}, ambiguous(t, Leaves(b.All))
	}
	line := Ancestors(b.All, b.Host)
	p, first := t.Resolve(ctx, b.Host)
	if first == nil || !errors.Is(first, ErrNoPoint) {
		return b.Host, p, first
	}
	for _, v := range line[1:] {
		// Past its newest commit an ancestor says nothing of a moment: the host's branch
		// had begun, or nobody followed the database.
		if t.Kind == ByTime && !t.Time.After(v.DurableTime.Time()) {
			p, err := t.Resolve(ctx, v)
			if err == nil || !errors.Is(err, ErrNoPoint) {
				return v, p, err
			}
		}
	}
	if err := b.cut(line); err != nil {
		return nil, p, fmt.Errorf("%w; the branch that it left: %w", first, err)
	}
	for _, v := range line[1:] {
		if v.Ready && v.First != 0 {
			return nil, p, fmt.Errorf("%w; the branch that it left has points up to lsn:%s (--lineage %s)", first, v.Durable, v.ID)
		}
	}
	return nil, p, first
}

func ambiguous(t Target, found []*history.View) error {
	return fmt.Errorf("resolve %s: %w has it; say which one is meant: %s", t, ErrAmbiguous, choices(found))
}

func choices(found []*history.View) string {
	var names []string
	for _, v := range found {
		names = append(names, fmt.Sprintf("--lineage %s (up to lsn:%s, committed %s)", v.ID, v.Durable, v.DurableTime))
	}
	return strings.Join(names, ", or ")
}
