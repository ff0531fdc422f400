package restore

import (
	"errors"
	"slices"
	"testing"

	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/synapse"
)

// The aftercare of an imported Synapse is that of a restored one, as far as an archive
// knows what came later: its positions count.
func TestImportOfASynapse(t *testing.T) {
	l := newSource(t, homeserverDDL()...)
	at := l.change(`INSERT INTO receipts_linearized VALUES ('a', 11)`)
	c := contents(t, must[*Spool](t)(l.spoolAt("before:lsn:"+at.End.String(), Options{})))
	c.Server = &mspf.Server{StreamFloors: map[string]int64{"receipts": 9000}}
	file := write(t, "a.tar", c)

	plan := must[*Import](t)(PlanImport(t.Context(), file, ImportOptions{}))
	d := l.src.Cluster.Database(t)
	report, err := plan.Into(t.Context(), d.DSN, nil)
	check(t, err)
	for sql, want := range map[string]string{
		`SELECT count(*) FROM e2e_one_time_keys_json`:                           "0",
		`SELECT count(*) FROM users`:                                            "1",
		`SELECT stream_id FROM stream_positions WHERE stream_name = 'receipts'`: "10009000",
		`SELECT last_value FROM receipts_sequence`:                              "10009000",
		`SELECT count(*) FROM presence_stream`:                                  "0",
		`SELECT count(*) FROM e2e_fallback_keys_json WHERE used`:                "1",
		`SELECT string_agg(id || status, ' ' ORDER BY id) FROM scheduled_tasks`: "t1failed t2active t3complete",
	} {
		if got := d.Query(t, sql)[0][0]; got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
	var steps []string
	for _, s := range report.Aftercare {
		steps = append(steps, s.Name)
	}
	if report.Mode != synapse.Rollback || !slices.Equal(steps, plan.Aftercare) {
		t.Errorf("%s took the steps %q, planned were %q", report.Mode, steps, plan.Aftercare)
	}
	for _, mode := range []synapse.Mode{synapse.Move, synapse.Raw} {
		d := l.src.Cluster.Database(t)
		report, err := importInto(t, file, d, ImportOptions{Mode: mode}, nil)
		check(t, err)
		if got := d.Query(t, `SELECT last_value FROM receipts_sequence`)[0][0]; got != "10" || len(report.Aftercare) > 0 {
			t.Errorf("%s did something: the sequence is at %s, steps %+v", mode, got, report.Aftercare)
		}
	}
}

// A database that a Synapse would not start on is refused before anything is in it.
func TestImportLocale(t *testing.T) {
	l := newSource(t, homeserverDDL()...)
	file := write(t, "a.tar", contents(t, must[*Spool](t)(l.spoolAt("latest", Options{}))))
	d := l.otherLocale()
	if _, err := importInto(t, file, d, ImportOptions{}, nil); !errors.Is(err, ErrLocale) {
		t.Errorf("a locale that is not C: %v, want ErrLocale", err)
	}
	untouched(t, d)
	_, err := importInto(t, file, d, ImportOptions{AnyLocale: true}, nil)
	check(t, err)
}
