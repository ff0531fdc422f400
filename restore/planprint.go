package restore

import (
	"fmt"
	"strings"

	"lifeboat.im/lifeboat/synapse"
)

// maxListed bounds the tables that a printed plan lists one by one.
const maxListed = 12

// String is the plan for a person.
func (p *Plan) String() string {
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	line("Restore of lineage %s", p.Lineage)
	line("  to        %s", p.Point)
	switch {
	case p.Point.Newest && p.Mode == synapse.Rollback:
		line("            the newest durable commit; if the old server is stopped and nothing was lost, --mode move keeps every row and sequence")
	case p.Point.Newest:
		line("            the newest durable commit; sequences are exact")
	}
	if n := len(p.Point.Inverted); n > 0 {
		line("  clock     %d later commits carry a time within the target; the order of commits decides:", n)
		for _, c := range p.Point.Inverted[:min(n, 3)] {
			line("            lsn:%s (transaction %d, committed %s) is left out", c.End, c.XID, c.Time)
		}
	}
	line("  mode      %s", p.Mode)
	line("  schema    certain from %s to %s", p.SchemaFrom, p.SchemaUntil)
	line("  rows      %d tables, %d rows, %s of copies", len(p.Tables), p.Rows, mib(p.Bytes))
	line("  changes   up to %d records, %s", p.Records, mib(p.RecordBytes))
	line("  expected  about %s", p.Expected)
	for i, t := range p.Tables {
		if i == maxListed {
			line("            … and %d smaller tables", len(p.Tables)-i)
			break
		}
		if !t.HasBase {
			line("  table     %s: stays empty", t.Table)
			continue
		}
		line("  table     %s: %d rows, %s, copy exact from %s", t.Table, t.Base.Rows, mib(t.Base.Bytes), t.Base.ExactFrom)
	}
	for _, i := range p.Incomplete {
		until := "still open"
		if i.Until != 0 {
			until = "exact again from " + i.Until.String()
		}
		line("  INCOMPLETE %s: %s; exact up to %s, %s", i.Table, i.Reason, i.From, until)
	}
	for _, n := range p.Notes {
		line("  note      %s", n)
	}
	return b.String()
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
