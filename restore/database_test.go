package restore

import (
	"strings"
	"testing"
)

// TestPasswordStaysOffTheCommandLine: what pg_restore is started with.
func TestPasswordStaysOffTheCommandLine(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://u:hush@h:5433/d?sslmode=disable":     "postgres://u@h:5433/d?sslmode=disable",
		"postgres://u@h/d?password=hush&sslmode=disable": "postgres://u@h/d?sslmode=disable",
		"host=h user=u password=hush dbname=d":           "host=h user=u dbname=d",
		`host = h password='hu \' sh' dbname='a b'`:      "host=h dbname='a b'",
		`password=hu\ sh host=h`:                         "host=h",
		"dbname=d":                                       "dbname=d",
	} {
		d, err := connectConfig(dsn)
		if err != nil {
			t.Errorf("%s: %v", dsn, err)
			continue
		}
		if got := d.conninfo(); got != want || strings.Contains(got, "hu") {
			t.Errorf("%s: %s, want %s", dsn, got, want)
		}
	}
}

func TestParseFailures(t *testing.T) {
	f := parseFailures("pg_restore: while PROCESSING TOC:\npg_restore: from TOC entry 2; 1 1 INDEX x y\n" +
		"pg_restore: error: could not execute query: ERROR:  could not create unique index \"uj\"\nDETAIL:  Key (j)=(2) is duplicated.\n" +
		"Command was: CREATE UNIQUE INDEX uj\n  ON public.a (j);\n\n\npg_restore: warning: errors ignored on restore: 1\n")
	if len(f) != 1 || f[0].Error != `could not create unique index "uj"; DETAIL: Key (j)=(2) is duplicated.` ||
		f[0].Statement != "CREATE UNIQUE INDEX uj\n  ON public.a (j);" {
		t.Fatalf("%+v", f)
	}
}
