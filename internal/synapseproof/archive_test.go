package synapseproof

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/mspf/event"
)

// judged holds the events of an archive against Synapse's own code, and against the
// database that a restore made of the same commit.
func (a *packed) judged(r *testpg.Database) {
	a.lab.t.Helper()
	t := a.lab.t
	v, err := mspf.Inspect(t.Context(), a.file, a.read)
	if err != nil {
		t.Fatal(err)
	}
	if v.Archive.EventOrder != "dag" || v.Archive.Redaction != "applied" {
		t.Errorf("events in the order %q, redactions %s", v.Archive.EventOrder, v.Archive.Redaction)
	}
	events := a.events(t)
	a.askSynapse(t, events)
	ids, redacted := map[string]bool{}, map[string]bool{}
	for _, e := range events {
		ids[e.ID] = true
		if e.Redacted {
			redacted[e.ID] = true
		}
	}
	a.same(r, "events", ids, "SELECT event_id FROM event_json")
	a.same(r, "redacted events", redacted, `SELECT x.event_id FROM redactions r JOIN events x ON x.event_id = r.redacts
		JOIN events e ON e.event_id = r.event_id AND e.room_id = x.room_id
		WHERE e.rejection_reason IS NULL AND x.type <> 'm.room.create'`)
	t.Logf("archive: %d events, %d of them redacted; losses: %d kinds", len(ids), len(redacted), len(v.Report.Losses))
}

// archived is an event for the oracle.
type archived struct {
	Version  string          `json:"version"`
	Room     string          `json:"room"`
	ID       string          `json:"id"`
	Redacted bool            `json:"redacted"`
	Event    json.RawMessage `json:"event"`
}

// events reads the events with what stands beside them.
func (a *packed) events(t testing.TB) (all []archived) {
	t.Helper()
	versions, named := map[string]string{}, 0
	_, err := mspf.Read(t.Context(), a.file, a.read, func(e mspf.Element) error {
		switch e.Item {
		case "m.rooms":
			var r mspf.Room
			err := e.Decode(&r)
			versions[e.Key] = r.Version
			return err
		case "m.events":
			var tree map[string]any
			if err := e.Decode(&tree); err != nil {
				return err
			}
			text, err := event.Canonical(tree)
			all = append(all, archived{Version: versions[e.Key], Room: e.Key, Event: text})
			return err
		case mspf.Prefix + "event_meta":
			var m mspf.EventMeta
			if err := e.Decode(&m); err != nil {
				return err
			}
			if named == len(all) || all[named].Room != e.Key {
				return fmt.Errorf("%s of %s stands beside no event", m.EventID, e.Key)
			}
			all[named].ID, all[named].Redacted = m.EventID, m.RedactedBy != ""
			named++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// askSynapse has Synapse's code recompute ids and hashes, and check signatures.
func (a *packed) askSynapse(t testing.TB, events []archived) {
	t.Helper()
	var in bytes.Buffer
	enc := json.NewEncoder(&in)
	enc.SetEscapeHTML(false)
	for _, e := range events {
		if err := enc.Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	o := a.lab.server.Options()
	cmd := exec.CommandContext(t.Context(), o.Install.Python, "testdata/archive_oracle.py", a.lab.server.Name(), filepath.Join(o.Dir, "signing.key"))
	cmd.Env = append(os.Environ(), "PYTHONPATH="+o.Install.Lib)
	cmd.Stdin = &in
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("oracle: %v", err)
	}
	var said struct {
		Events, Signed  int
		ID, Room, Error string
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		if err := dec.Decode(&said); err != nil {
			t.Fatal(err)
		}
		if said.Error != "" {
			t.Errorf("Synapse says of %s in %s: %s", said.ID, said.Room, said.Error)
			said.Error = ""
		}
	}
	if said.Events != len(events) || said.Signed < said.Events/2 || said.Events == 0 {
		t.Errorf("Synapse judged %d of %d events, and %d signatures", said.Events, len(events), said.Signed)
	}
}

// same holds ids against those that a query gives.
func (a *packed) same(r *testpg.Database, what string, have map[string]bool, query string) {
	t := a.lab.t
	t.Helper()
	want := map[string]bool{}
	for _, row := range r.Query(t, query) {
		id := row[0]
		want[id] = true
		if !have[id] {
			t.Errorf("%s: the archive lacks %s", what, id)
		}
	}
	for id := range have {
		if !want[id] {
			t.Errorf("%s: only the archive has %s", what, id)
		}
	}
	if len(want) == 0 {
		t.Errorf("%s: there are none, so nothing was held", what)
	}
}
