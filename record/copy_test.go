package record_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// AppendValue writes the very bytes that COPY TO writes, and COPY FROM reads them
// back: all bytes but zero, in a database that takes any.
func TestAppendValueIsCopy(t *testing.T) {
	c := testpg.Shared(t, testpg.Newest)
	const name = "record_bytes"
	c.Query(t, "CREATE DATABASE "+name+" ENCODING 'SQL_ASCII' TEMPLATE template0")
	t.Cleanup(func() { c.Query(t, "DROP DATABASE "+name+" WITH (FORCE)") })
	conn := testpg.Connect(t, c.DSN(name)+"&client_encoding=SQL_ASCII").PgConn()
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec("CREATE TABLE a (i int, v text); CREATE TABLE b (i int, v text)")

	values := [][]byte{nil, {}, []byte(`\N`), []byte(`\U`), []byte(`\.`), []byte("\\\n"), []byte("\r\n")}
	for b := range 255 {
		values = append(values, []byte{byte(b + 1)}, []byte{'\\', byte(b + 1)})
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		v := make([]byte, rng.IntN(80))
		for i := range v {
			v[i] = byte(1 + rng.IntN(255))
			if rng.IntN(2) == 0 {
				v[i] = "\\\t\n\r\b\f\v"[rng.IntN(7)]
			}
		}
		values = append(values, v)
	}
	batch := &pgconn.Batch{}
	var ours []byte
	for i, v := range values {
		number := []byte{byte('0' + i/1000), byte('0' + i/100%10), byte('0' + i/10%10), byte('0' + i%10)}
		batch.ExecParams("INSERT INTO a VALUES ($1, $2)", [][]byte{number, v}, nil, nil, nil)
		ours = append(ours, bytes.TrimLeft(number[:3], "0")...)
		ours = append(append(ours, number[3]), '\t')
		if v == nil {
			ours = record.AppendNull(ours)
		} else {
			ours = record.AppendValue(ours, v)
		}
		ours = append(ours, '\n')
	}
	if _, err := conn.ExecBatch(t.Context(), batch).ReadAll(); err != nil {
		t.Fatal(err)
	}
	var theirs bytes.Buffer
	if _, err := conn.CopyTo(t.Context(), &theirs, "COPY (SELECT * FROM a ORDER BY i) TO STDOUT"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ours, theirs.Bytes()) {
		a, b := bytes.Split(ours, []byte("\n")), bytes.Split(theirs.Bytes(), []byte("\n"))
		for i := range min(len(a), len(b)) {
			if !bytes.Equal(a[i], b[i]) {
				t.Fatalf("we write %q and PostgreSQL %q", a[i], b[i])
			}
		}
		t.Fatalf("we write %d lines and PostgreSQL %d", len(a), len(b))
	}
	if _, err := conn.CopyFrom(t.Context(), bytes.NewReader(ours), "COPY b FROM STDIN"); err != nil {
		t.Fatal(err)
	}
	diff, err := conn.Exec(t.Context(), "SELECT count(*) FROM a FULL JOIN b USING (i) WHERE a.v IS DISTINCT FROM b.v OR i IS NULL").ReadAll()
	if err != nil || string(diff[0].Rows[0][0]) != "0" {
		t.Fatalf("%s values come back changed: %v", diff[0].Rows[0][0], err)
	}
}
