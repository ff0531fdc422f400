package proof

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
)

// prune pins every third of the points, prunes all but them and the last seconds of the
// load, and restores each again: what was kept has the digests that it had when it was
// held against physical recovery, and everything else is refused as pruned.
func (l *lab) prune(v *history.View, points []heldPoint) {
	l.t.Helper()
	ctx := l.t.Context()
	pinned := map[record.LSN]bool{}
	for i := 0; i < len(points); i += 3 {
		at := points[i].at
		pinned[at] = true
		n := history.Note{Kind: history.NotePin, Name: fmt.Sprint("pin ", i), From: at, Time: record.FromTime(time.Now())}
		if err := l.repo.Log(l.operator, v.ID, nil).AppendNote(ctx, n); err != nil {
			l.t.Fatal(err)
		}
	}
	o := history.PruneOptions{Keep: history.Keep{EveryCommit: 5 * time.Second}}
	var report *history.PruneReport
	for _, want := range []history.PrunePhase{history.PruneCondemned, history.PruneDeleted} {
		r, err := history.Prune(ctx, l.repo, l.operator.Maintenance(), o)
		if err != nil || r.Phase != want || len(r.Warnings) > 0 {
			l.t.Fatalf("prune: %+v: %v, want %s", r, err, want)
		}
		report = r
		l.age(8 * 24 * time.Hour)
	}
	l.verify()
	v = l.view()
	if report.Entries == 0 || v.Pruned == 0 {
		l.t.Fatalf("pruned nothing: %+v", report)
	}
	target := testpg.Shared(l.t, l.cluster.Major)
	kept, refused := 0, 0
	for _, p := range points {
		at, err := restore.Target{Kind: restore.ByLSN, LSN: p.at}.Resolve(ctx, v)
		if !pinned[p.at] && p.at < v.First {
			if refused++; !errors.Is(err, restore.ErrPruned) {
				l.t.Errorf("%s before %s: %v, want pruned", p.at, v.First, err)
			}
			continue
		}
		if err != nil {
			l.t.Errorf("%s (pinned: %v): %v", p.at, pinned[p.at], err)
			continue
		}
		plan, err := restore.NewPlan(ctx, v, at, restore.Options{PgRestore: l.child.Source.PgBin, Workers: 2})
		if err != nil {
			l.t.Errorf("%s: %v", p.at, err)
			continue
		}
		r, err := plan.Materialise(ctx, target.Database(l.t).DSN, l.operator, nil)
		if err != nil {
			l.t.Errorf("%s: %v", p.at, err)
			continue
		}
		kept++
		got := map[string]string{}
		for _, t := range r.Tables {
			got[t.Table] = digest(t)
		}
		if !maps.Equal(got, p.tables) {
			l.t.Errorf("%s has %v after the prune, it had %v", p.at, got, p.tables)
		}
		if kept == readAt {
			testpg.ReadStore(l.t, l.child.Repo, filepath.Join(l.dir, "operator.age"), v.ID.String(), p.at.String(), got)
		}
	}
	l.t.Logf("pruned %d chunks and %d entries, %d of %d bytes; %d points restored again, %d refused", report.Chunks, report.Entries, report.Bytes, report.Total, kept, refused)
	if kept == 0 {
		l.t.Error("no point was restored again")
	}
}

// age makes all objects of the repository older.
func (l *lab) age(by time.Duration) {
	l.t.Helper()
	err := filepath.WalkDir(l.child.Repo, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		i, err := d.Info()
		if err != nil {
			return err
		}
		t := i.ModTime().Add(-by)
		return os.Chtimes(path, t, t)
	})
	if err != nil {
		l.t.Fatal(err)
	}
}
