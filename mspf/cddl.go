package mspf

import (
	"fmt"
	"strings"
)

// CDDL gives the schema of every item of an archive (RFC 8610), made from the table
// that [Verify] checks elements against: docs/mspf.cddl. A JSON document is described
// like CBOR.
func CDDL() string {
	var b strings.Builder
	b.WriteString("; Items of the migration archive that docs/format-mspf.md specifies.\n; Made from the table in mspf; do not edit: go test ./mspf -run TestCDDL -update\n\n")
	b.WriteString("manifest = { version: 0, items: { * tstr => { v: 1, ? \"" + layoutKey + "\": 1 } } } ; " + manifestPath + "\n")
	b.WriteString("open = { * tstr => any } ; an object with whatever keys\n")
	b.WriteString("integer = int / #6.2(bstr) / #6.3(bstr)\n")
	for _, p := range parts() {
		fmt.Fprintf(&b, "\n; %s: %s\n", p.path, p.text)
		name := ruleName(p)
		switch p.form {
		case doc:
			fmt.Fprintf(&b, "%s = ", name)
		case byKey:
			fmt.Fprintf(&b, "%s = { * tstr => %s-entry } ; by %s\n%s-entry = ", name, name, p.key, name)
		case lists:
			fmt.Fprintf(&b, "%s = { * tstr => [ * %s-entry ] } ; by %s\n%s-entry = ", name, name, p.key, name)
		}
		p.value.cddl(&b, "")
		b.WriteByte('\n')
	}
	return b.String()
}

// ruleName makes a rule's name of a path: CDDL allows dots in names.
func ruleName(p part) string {
	path, _, _ := strings.Cut(p.path, ".N.")
	for _, ext := range []string{".json", ".cbor"} {
		path = strings.TrimSuffix(path, ext)
	}
	dir, base, nested := strings.Cut(path, "/")
	if !nested {
		return path
	}
	if strings.HasSuffix(dir, "."+base) { // m.events/events
		return dir
	}
	return dir + "." + base
}

func (s shape) cddl(b *strings.Builder, indent string) {
	switch s.kind {
	case kindAny:
		b.WriteString("any")
	case kindOpen:
		b.WriteString("open")
	case kindText:
		b.WriteString("tstr")
	case kindNullText:
		b.WriteString("tstr / null")
	case kindInt:
		b.WriteString("integer")
	case kindBool:
		b.WriteString("bool")
	case kindConst:
		for i, v := range s.values {
			if i > 0 {
				b.WriteString(" / ")
			}
			fmt.Fprintf(b, "%q", v)
		}
	case kindList:
		b.WriteString("[ * ")
		s.elems[0].cddl(b, indent)
		b.WriteString(" ]")
	case kindTuple:
		b.WriteString("[ ")
		for i, e := range s.elems {
			if i > 0 {
				b.WriteString(", ")
			}
			e.cddl(b, indent)
		}
		b.WriteString(" ]")
	case kindMap:
		b.WriteString("{ * tstr => ")
		s.elems[0].cddl(b, indent)
		b.WriteString(" }")
	case kindObject:
		s.cddlObject(b, indent)
	}
}

func (s shape) cddlObject(b *strings.Builder, indent string) {
	b.WriteString("{\n")
	for _, f := range s.fields {
		b.WriteString(indent + "  ")
		if f.optional {
			b.WriteString("? ")
		}
		b.WriteString(f.name + ": ")
		f.shape.cddl(b, indent+"  ")
		b.WriteByte(',')
		switch {
		case f.text != "":
			b.WriteString(" ; " + f.text)
		case f.shape.kind == kindMap:
			b.WriteString(" ; by " + f.shape.key)
		}
		b.WriteByte('\n')
	}
	b.WriteString(indent + "}")
}
