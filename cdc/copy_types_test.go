package cdc

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/internal/testpg"
)

// literals gives a value for every built-in type that a column can have; ranges,
// multiranges and arrays are made of them.
var literals = map[string]string{
	"bool": "t", "bytea": `\x00ff5c`, "char": "x", "name": "nämé", "int8": "-9223372036854775808", "int2": "-32768", "int2vector": "1 2",
	"int4": "2147483647", "regproc": "pg_catalog.now", "text": "a\tb\\c\nd", "oid": "4294967295", "tid": "(1,2)", "xid": "7", "cid": "8",
	"oidvector": "1 2", "json": `{"a": 1,  "a":2}`, "xml": "<a>b</a>", "xid8": "9", "point": "(1.5,2)", "lseg": "[(0,0),(1,1)]",
	"path": "((0,0),(1,1))", "box": "(1,1),(0,0)", "polygon": "((0,0),(1,1),(2,0))", "line": "{1,2,3}", "cidr": "10.0.0.0/8",
	"float4": "1.1", "float8": "0.30000000000000004", "macaddr8": "08:00:2b:01:02:03:04:05", "circle": "<(1,2),3>", "money": "12.34",
	"macaddr": "08:00:2b:01:02:03", "inet": "192.168.0.1/24", "aclitem": "postgres=r/postgres", "bpchar": "pad  ", "varchar": "v",
	"date": "0044-03-15 BC", "time": "12:34:56.789012", "timestamp": "infinity", "timestamptz": "2024-02-29 12:00:00+05:30", "interval": "-1 day +02:03:04.5",
	"timetz": "12:00:00+05:30", "bit": "1", "varbit": "10101", "numeric": "NaN", "refcursor": "c", "regprocedure": "pg_catalog.abs(integer)", "regoper": "0",
	"regoperator": "pg_catalog.+(integer,integer)", "regclass": "pg_catalog.pg_class", "regtype": "integer", "regrole": "postgres", "regnamespace": "pg_catalog", "uuid": "00112233-4455-6677-8899-aabbccddeeff",
	"pg_lsn": "16/B374D848", "tsvector": "'a':1A 'b':2", "gtsvector": "", "tsquery": "'a' & !'b'", "regconfig": "pg_catalog.english", "regdictionary": "pg_catalog.simple",
	"jsonb": `{"b": 1.50, "a": null}`, "txid_snapshot": "10:20:15", "pg_snapshot": "10:20:15", "jsonpath": "$.\"a\"[*]", "regcollation": "pg_catalog.\"C\"",
	"int4range": "[1,5)", "numrange": "(1.5,)", "tsrange": "empty", "tstzrange": "[\"2024-02-29 00:00:00+00\",)", "daterange": "[2024-01-01,2024-02-01)", "int8range": "(,5)",
	"int4multirange": "{[1,2),[5,7)}", "nummultirange": "{}", "tsmultirange": "{[infinity,)}", "tstzmultirange": "{}", "datemultirange": "{[2024-01-01,2024-02-01)}", "int8multirange": "{(,5)}",
	"pg_node_tree": "", "pg_ndistinct": "", "pg_dependencies": "", "pg_mcv_list": "", "pg_brin_bloom_summary": "", "pg_brin_minmax_multi_summary": "", "oid8": "1", "regdatabase": "postgres",
}

// TestCopyEveryType: a value of every built-in type, alone and in an array, under
// settings that would print it otherwise.
func TestCopyEveryType(t *testing.T) {
	each(t, func(t *testing.T, c *testpg.Cluster) {
		d := c.Database(t)
		var columns, values []string
		for _, row := range d.Query(t, `SELECT typname, typarray FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm')
			AND typcategory <> 'A' AND typrelid = 0 ORDER BY typname`) {
			name := row[0]
			literal, known := literals[name]
			if !known {
				t.Errorf("no value for type %s", name)
				continue
			}
			if literal == "" {
				continue // no input function
			}
			if _, err := d.Try(t, "SELECT '"+strings.ReplaceAll(literal, "'", "''")+"'::pg_catalog.\""+name+"\""); err != nil && name == "xml" {
				continue // a server built without libxml
			}
			literal = strings.ReplaceAll(literal, "'", "''")
			columns = append(columns, fmt.Sprintf("%q pg_catalog.%q", "c_"+name, name))
			values = append(values, fmt.Sprintf("'%s'::pg_catalog.%q", literal, name))
			if row[1] != "0" {
				columns = append(columns, fmt.Sprintf("%q pg_catalog.%q[]", "a_"+name, name))
				values = append(values, fmt.Sprintf("ARRAY['%s', NULL]::pg_catalog.%q[]", literal, name))
			}
		}
		d.Exec(t, "CREATE TABLE types ("+strings.Join(columns, ", ")+")", "INSERT INTO types VALUES ("+strings.Join(values, ", ")+")", "INSERT INTO types DEFAULT VALUES")
		s := sourceOf(t, d, "")
		want := copyLines(t, d, func() *Table { x := tableOf(t, s, "types"); return &x }())
		if !slices.ContainsFunc(want, func(l string) bool {
			return strings.Contains(l, "0.30000000000000004") && strings.Contains(l, `\\x00ff5c`) && strings.Contains(l, "0044-03-15 BC") && strings.Contains(l, "2024-02-29 06:30:00+00")
		}) {
			t.Errorf("lines %q", want)
		}
		d.Exec(t, hostile(d.Name)...)
		h := sourceOf(t, d, "")
		var b bag
		if _, err := h.Copy(t.Context(), tableOf(t, h, "types"), CopyOptions{}, b.sink); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(b.sorted(), want) {
			t.Errorf("hostile settings:\n%q\nwant:\n%q", b.lines, want)
		}
	})
}

// TestCopyEncodings: values leave in the server's encoding; names are text.
func TestCopyEncodings(t *testing.T) {
	c := testpg.Shared(t, testpg.Newest)
	for encoding, value := range map[string]string{"SQL_ASCII": "80ff41", "LATIN1": "e9fc", "EUC_JP": "a4a2"} {
		name := "copy_enc_" + strings.ToLower(encoding)
		c.Query(t, "CREATE DATABASE "+name+" ENCODING '"+encoding+"' LOCALE 'C' TEMPLATE template0")
		s, err := Connect(t.Context(), Config{DSN: c.DSN(name)})
		if err != nil {
			t.Fatal(err)
		}
		table := map[string]string{"LATIN1": "Größe", "EUC_JP": "あ", "SQL_ASCII": "x"}[encoding]
		err = s.ask(t.Context(), func(ctx context.Context, c *session) error {
			_, err := c.simple(ctx, "CREATE TABLE public."+ident(table)+" ("+ident(table)+" text); INSERT INTO public."+ident(table)+
				" SELECT pg_catalog.convert_from('\\x"+value+"', '"+encoding+"')")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		x := tableOf(t, s, table)
		var b bag
		if _, err := s.Copy(t.Context(), x, CopyOptions{}, b.sink); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString([]byte(b.lines[0])); got != value || x.Relation.Columns[0].Name != table {
			t.Errorf("%s: %s in %q, want %s", encoding, got, x.Relation.Columns[0].Name, value)
		}
		_ = s.Close(t.Context())
		c.Query(t, "DROP DATABASE "+name+" (FORCE)")
	}
}
