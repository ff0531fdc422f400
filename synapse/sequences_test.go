package synapse_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/synapse"
)

// No two sequences feed one column, and every column is of a table that is named:
// otherwise a restore would not look at all values.
func TestY3_SequencesCoverTheirColumns(t *testing.T) {
	fed := map[synapse.Column]string{}
	last := ""
	for _, q := range synapse.Sequences() {
		if q.Name <= last {
			t.Errorf("%s stands after %s", q.Name, last)
		}
		last = q.Name
		if len(q.Feeds) == 0 && q.Name != "user_id_seq" {
			t.Errorf("%s feeds nothing", q.Name)
		}
		for _, f := range q.Feeds {
			if fed[f] != "" {
				t.Errorf("%v is fed by %s and %s", f, fed[f], q.Name)
			}
			fed[f] = q.Name
			if _, known := synapse.Named(f.Table); !known {
				t.Errorf("%s feeds %s, which is not named", q.Name, f.Table)
			}
		}
	}
}

// The makers of ids in Synapse's source: each names its sequence, and the columns
// that it holds against it when it starts.
var (
	generator = regexp.MustCompile(`(?s)MultiWriterIdGenerator\(\s*db_conn=.*?sequence_name="(\w+)"(?:,\s*positive=(False))?`)
	streamOf  = regexp.MustCompile(`stream_name="(\w+)"`)
	tableOf   = regexp.MustCompile(`\(\s*"(\w+)",\s*"instance_name",\s*"(\w+)",?\s*\)`)
	builder   = regexp.MustCompile(`(?s)build_sequence_generator\([^()]*?"(\w+)",\s*table="(\w+)",\s*id_column="(\w+)"`)
)

// Whatever column Synapse looks at when it decides whether a sequence is behind, we
// look at too, with its sign and under its stream's name.
func TestY3_SequencesAreThoseThatSynapseChecks(t *testing.T) {
	known := map[string]synapse.Sequence{}
	for _, q := range synapse.Sequences() {
		known[q.Name] = q
	}
	check := func(file, name, stream string, c synapse.Column) {
		q, ok := known[name]
		if !ok || !slices.Contains(q.Feeds, c) {
			t.Errorf("%s: %s makes %+v; named: %t, with %+v", file, name, c, ok, q.Feeds)
		}
		if stream != "" && q.Stream != stream {
			t.Errorf("%s: the stream of %s is %q, not %q", file, name, stream, q.Stream)
		}
	}
	streams, others := 0, 0
	dir := filepath.Join(install(t).Lib, "synapse", "storage", "databases")
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".py") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file := filepath.Base(path)
		for _, m := range generator.FindAllStringSubmatch(string(b), -1) {
			streams++
			stream := ""
			if s := streamOf.FindStringSubmatch(m[0]); s != nil {
				stream = s[1]
			}
			tables := tableOf.FindAllStringSubmatch(m[0], -1)
			if len(tables) == 0 {
				t.Errorf("%s: no table of %s was recognised", file, m[1])
			}
			for _, c := range tables {
				check(file, m[1], stream, synapse.Column{Table: c[1], Column: c[2], Negated: m[2] != ""})
			}
		}
		for _, m := range builder.FindAllStringSubmatch(string(b), -1) {
			others++
			check(file, m[1], "", synapse.Column{Table: m[2], Column: m[3]})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if streams < 17 || others < 3 {
		t.Errorf("only %d streams and %d other sequences were found in Synapse's source", streams, others)
	}
}
