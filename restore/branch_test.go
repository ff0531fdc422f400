package restore

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

// branch begins another lineage in the lab's repository and gives a lab for it.
func (l *lab) branch(n byte, parent *history.Parent, durable record.LSN) *lab {
	l.t.Helper()
	id := labLineage()
	id.Database, id.Lineage[7] = uint32(n), n
	b := &lab{t: l.t, secrets: l.secrets, repo: l.repo, lsn: durable, xid: l.xid + 1000*record.XID(n), clock: l.clock + 60e6, rows: map[uint32][]string{}}
	b.log = l.repo.Log(l.secrets, id, nil)
	var err error
	b.w, err = b.log.Begin(l.t.Context(), nil, history.KeyDir(filepath.Join(l.t.TempDir(), "keys")), history.Opening{
		Timeline: 1, Slot: "lifeboat", ServerVersion: 180006, XMax: b.xid, Durable: b.lsn, Parent: parent,
	})
	check(l.t, err)
	b.schema(oneTable)
	b.base(oneTable, nil)
	b.ready()
	return b
}

// TestBranches resolves targets on both sides of a branch.
func TestBranches(t *testing.T) {
	l := newLab(t)
	l.schema(oneTable)
	l.base(oneTable, nil)
	l.ready()
	c := l.segment(insert("a"), insert("b"), insert("c"))
	root := labLineage()
	child := l.branch(9, &history.Parent{ID: root, At: c[1].End}, l.lsn+0x1000)
	d := child.segment(insert("d"), insert("e"))
	id := child.view().ID
	read := func(host history.LineageID) *Branches {
		b, err := ReadBranches(t.Context(), l.repo, l.secrets, host)
		check(t, err)
		return b
	}
	resolve := func(b *Branches, at string) (history.LineageID, record.LSN, error) {
		target, err := ParseTarget(at, testNow)
		check(t, err)
		v, p, err := b.Resolve(t.Context(), target)
		if err != nil {
			return history.LineageID{}, 0, err
		}
		return v.ID, p.LSN, nil
	}
	stamp := func(c record.Transaction) string { return c.Time.String() }
	xid := func(c record.Transaction) string { return Target{Kind: ByXID, XID: c.XID}.String() }
	for _, host := range []history.LineageID{id, {}} { // the state is there, or lost: one leaf
		b := read(host)
		if line, err := b.Line(); err != nil || len(line) != 2 || line[0].ID != id || line[1].ID != root {
			t.Fatalf("the line of %s: %v, %v", host, line, err)
		}
		for _, k := range []struct {
			at   string
			of   history.LineageID
			want record.LSN
		}{
			{"latest", id, d[1].End},
			{"before:latest", id, d[0].End},
			{"lsn:" + c[2].End.String(), root, c[2].End},
			{"before:lsn:" + c[2].End.String(), root, c[1].End},
			{"before:lsn:" + d[1].End.String(), id, d[0].End},
			{xid(c[0]), root, c[0].End},
			{"before:" + xid(d[1]), id, d[0].End},
			{stamp(d[0]), id, d[0].End},
			{stamp(c[1]), root, c[1].End},
			{"before:" + stamp(c[2]), root, c[1].End},
		} {
			if of, at, err := resolve(b, k.at); err != nil || of != k.of || at != k.want {
				t.Errorf("%s: %s of %s, %v; want %s of %s", k.at, at, of, err, k.want, k.of)
			}
		}
		// Between the parent's newest commit and the branch's first nobody followed: the
		// parent's end, accident included, is not what such a time means.
		between := Target{Kind: ByTime, Time: c[2].Time.Time().Add(1e9), now: testNow}
		if _, _, err := b.Resolve(t.Context(), between); !errors.Is(err, ErrNoPoint) || !strings.Contains(err.Error(), "--lineage "+root.String()) {
			t.Errorf("a time between: %v", err)
		}
		if _, _, err := resolve(b, "lsn:FFFF/0"); !errors.Is(err, ErrNoPoint) {
			t.Errorf("a position that nobody reached: %v", err)
		}
	}

	// A stranger's lineage has the same numbers by chance: a host's family leaves it out,
	// without a host nothing is guessed.
	stranger := l.branch(3, nil, labStart)
	stranger.segment(insert("x"), insert("y"))
	if of, _, err := resolve(read(id), "lsn:"+c[0].End.String()); err != nil || of != root {
		t.Errorf("beside a stranger: %s, %v", of, err)
	}
	for _, at := range []string{"latest", stamp(d[0]), "lsn:" + c[0].End.String()} {
		if of, _, err := resolve(read(history.LineageID{}), at); !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), "--lineage "+stranger.view().ID.String()) {
			t.Errorf("%s without a host: %s, %v", at, of, err)
		}
	}
	all, _, err := AllBranches(t.Context(), l.repo, l.secrets)
	check(t, err)
	at := func(id history.LineageID) int { return byID(all, id) }
	if len(all) != 3 || at(root) > at(id) || slices.Contains(all, nil) {
		t.Errorf("the branches stand as %v", all)
	}
}

// One damaged branch is named, and hinders only what is asked of it, or what it may
// have decided.
func TestDamagedBranch(t *testing.T) {
	l := newLab(t)
	l.schema(oneTable)
	l.base(oneTable, nil)
	l.ready()
	c := l.segment(insert("a"), insert("b"), insert("c"))
	root := labLineage()
	child := l.branch(9, &history.Parent{ID: root, At: c[1].End}, l.lsn+0x1000)
	d := child.segment(insert("d"))
	id := child.view().ID
	resolve := func(host history.LineageID, at string) (history.LineageID, error) {
		t.Helper()
		b, err := ReadBranches(t.Context(), l.repo, l.secrets, host)
		check(t, err)
		if len(b.Damaged) != 1 {
			t.Fatalf("the damaged ones are %v", b.Damaged)
		}
		v, _, err := b.Resolve(t.Context(), must[Target](t)(ParseTarget(at, testNow)))
		if err != nil {
			return history.LineageID{}, err
		}
		return v.ID, nil
	}
	prefix := func(id history.LineageID) string { return "log/" + id.String() + "/" }
	lose := func(id history.LineageID) (back func()) {
		for _, key := range l.mem.Keys() {
			if strings.HasPrefix(key, prefix(id)) && strings.HasSuffix(key, "/0000000002") {
				whole := l.mem.Object(key)
				l.mem.Lose(key)
				return func() { l.mem.Replace(key, whole) }
			}
		}
		t.Fatalf("no entry of %s", id)
		return nil
	}
	type question struct {
		host history.LineageID
		at   string
		of   history.LineageID // zero: damage is the answer
	}
	none := history.LineageID{}
	before := record.FromTime(c[0].Time.Time()).String()
	ask := func(name string, questions []question) {
		t.Helper()
		for _, q := range questions {
			of, err := resolve(q.host, q.at)
			if of != q.of || (q.of == none) != errors.Is(err, chunkstore.ErrDamaged) {
				t.Errorf("%s, host %s, %s: %s, %v", name, q.host, q.at, of, err)
			}
		}
	}
	back := lose(id)
	ask("without the child", []question{
		{root, "latest", root},
		{root, "lsn:" + c[0].End.String(), root},
		{id, "lsn:" + c[0].End.String(), root},
		{none, "lsn:" + c[0].End.String(), root},
		{id, "latest", none},
		{none, "latest", none},
		{none, before, none},
		{root, "lsn:" + d[0].End.String(), none},
	})
	b, err := ReadBranches(t.Context(), l.repo, l.secrets, root)
	check(t, err)
	at := Point{LSN: c[2].End, Newest: true}
	if _, err := NewPlan(t.Context(), b.Host, at, Options{Mode: synapse.Move, Family: b.All, Damaged: b.Damaged}); !errors.Is(err, chunkstore.ErrDamaged) {
		t.Errorf("a move while a branch cannot be read: %v", err)
	}
	p, err := NewPlan(t.Context(), b.Host, at, Options{Family: b.All, Damaged: b.Damaged})
	check(t, err)
	if !strings.Contains(p.String(), "the branch "+id.String()+" cannot be read") {
		t.Errorf("the plan does not say it:\n%s", p)
	}
	back()
	lose(root)
	ask("without the parent", []question{
		{id, "latest", id}, {id, "lsn:" + d[0].End.String(), id}, {id, before, none}, {id, "lsn:" + c[0].End.String(), none}, {none, "latest", none},
	})
}
