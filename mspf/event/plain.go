package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
)

// Plain reads the text of an event into a flat list instead of a tree, as long as the
// event is a plain one: exact (see [Parse]) and without a key twice. Most are. What it
// gives of such a text is what [Parse], [Strip] and [Version] give of it, in a third of the
// time (a fuzz target holds the two together). It is to be used again for one event after
// the other, and what it gives is valid until then. It is not safe for concurrent use.
type Plain struct {
	parser
	nodes []plainNode
	order []int32 // of each object its keys, in canonical order
	keys  []int32 // of the objects that are being read
}

// plainNode is a value, or a key, which is followed by its value. Those in an object or an
// array follow it.
type plainNode struct {
	text     []byte // of a string
	n        int64  // an integer, or how many there are in an object or array
	from, to int32  // where it stands
	next     int32  // what follows it
	order    int32  // of an object, where its keys begin
	kind     byte   // '{', '[', '"', '0', 't', 'f' or 'n'
	same     bool   // what stands there is canonical
}

// Read reads the text of an event; false when it is not a plain one, whatever it is.
func (p *Plain) Read(text []byte) bool {
	p.parser = parser{text: text, exact: true}
	p.nodes, p.order, p.keys = p.nodes[:0], p.order[:0], p.keys[:0]
	if len(text) > 1<<30 || !p.read(1) {
		return false
	}
	p.space()
	return p.at == len(text) && p.exact && p.nodes[0].kind == '{'
}

func (p *Plain) read(depth int) bool {
	if p.space(); p.at >= len(p.text) {
		return false
	}
	i := len(p.nodes)
	p.nodes = append(p.nodes, plainNode{kind: p.text[p.at], from: int32(p.at)})
	ok := false
	switch p.text[p.at] {
	case '{', '[':
		return depth <= MaxDepth && p.container(i, depth)
	case '"':
		return p.string(i)
	case 't':
		ok = p.literal("true") == nil
	case 'f':
		ok = p.literal("false") == nil
	case 'n':
		ok = p.literal("null") == nil
	default:
		n, err := p.number()
		ok = err == nil && p.exact
		p.nodes[i].n, _ = n.(int64)
		p.nodes[i].kind = '0'
	}
	x := &p.nodes[i]
	x.to, x.next = int32(p.at), int32(i+1)
	x.same = x.kind != '0' || x.n != 0 || x.to == x.from+1 // not -0
	return ok
}

func (p *Plain) string(i int) bool {
	s, simple, err := p.bytes()
	if err == nil && !simple {
		s, err = p.escaped(slices.Clone(s))
	}
	x := &p.nodes[i]
	x.text, x.same, x.to, x.next = s, simple, int32(p.at), int32(i+1)
	return err == nil
}

// container reads an object or an array.
func (p *Plain) container(i, depth int) bool {
	object := p.nodes[i].kind == '{'
	end, first := p.text[p.at]+2, len(p.keys) // '}' or ']'
	p.at++
	n, size, same := int64(0), int32(2), true
	for done := p.take(end); !done; n++ {
		if object {
			if p.space(); p.at >= len(p.text) || p.text[p.at] != '"' {
				return false
			}
			k := len(p.nodes)
			p.keys = append(p.keys, int32(k))
			p.nodes = append(p.nodes, plainNode{kind: '"', from: int32(p.at)})
			if !p.string(k) || !p.take(':') {
				return false
			}
			size += p.nodes[k].to - p.nodes[k].from + 1
			same = same && p.nodes[k].same
		}
		v := len(p.nodes)
		if !p.read(depth + 1) {
			return false
		}
		size += p.nodes[v].to - p.nodes[v].from
		same = same && p.nodes[v].same
		if done = p.take(end); !done {
			if !p.take(',') {
				return false
			}
			size++
		}
	}
	x := &p.nodes[i]
	x.n, x.to, x.next, x.order = n, int32(p.at), int32(len(p.nodes)), int32(len(p.order))
	if object {
		p.order = append(p.order, p.keys[first:]...)
		p.keys = p.keys[:first]
		sorted, once := p.sort(p.order[x.order:])
		if same = same && sorted; !once {
			return false
		}
	}
	x.same = same && x.to-x.from == size // no spaces
	return true
}

// sort sorts keys, and says whether they were sorted already, and each there once.
func (p *Plain) sort(keys []int32) (sorted, once bool) {
	by := func(a, b int32) int { return bytes.Compare(p.nodes[a].text, p.nodes[b].text) }
	if sorted = slices.IsSortedFunc(keys, by); !sorted {
		slices.SortFunc(keys, by)
	}
	for i := 1; i < len(keys); i++ {
		if by(keys[i-1], keys[i]) == 0 {
			return sorted, false
		}
	}
	return sorted, true
}

// keysOf gives the keys of an object in canonical order.
func (p *Plain) keysOf(i int32) []int32 {
	x := &p.nodes[i]
	return p.order[x.order : x.order+int32(x.n)]
}

// find gives the value at the end of a path of keys; -1 when there is none.
func (p *Plain) find(path ...string) int32 {
	i := int32(0)
next:
	for _, name := range path {
		if p.nodes[i].kind == '{' {
			for _, k := range p.keysOf(i) {
				if string(p.nodes[k].text) == name {
					i = k + 1
					continue next
				}
			}
		}
		return -1
	}
	return i
}

// Text gives the string at the end of a path of keys.
func (p *Plain) Text(path ...string) (text []byte, ok bool) {
	if i := p.find(path...); i >= 0 && p.nodes[i].kind == '"' {
		return p.nodes[i].text, true
	}
	return nil, false
}

// Int gives the integer at the end of a path of keys, else 0.
func (p *Plain) Int(path ...string) int64 {
	if i := p.find(path...); i >= 0 && p.nodes[i].kind == '0' {
		return p.nodes[i].n
	}
	return 0
}

// Has says whether there is a value at the end of a path of keys.
func (p *Plain) Has(path ...string) bool { return p.find(path...) >= 0 }

// References calls f for each id that [References] gives.
func (p *Plain) References(key string, f func(id []byte)) {
	i := p.find(key)
	if i < 0 || p.nodes[i].kind != '[' {
		return
	}
	for j := i + 1; j < p.nodes[i].next; j = p.nodes[j].next {
		k := j
		if p.nodes[j].kind == '[' && p.nodes[j].n > 0 {
			k = j + 1
		}
		if p.nodes[k].kind == '"' {
			f(p.nodes[k].text)
		}
	}
}

// AppendSigned appends what [Version.Signed] gives; false when that is to be asked.
func (p *Plain) AppendSigned(b []byte, v *Version) (_ []byte, ok bool) {
	kind, _ := p.Text("type")
	content := p.find("content")
	if content < 0 || p.nodes[content].kind != '{' {
		return b, false
	}
	keep := v.Content[string(kind)]
	for _, name := range keep {
		if outer, _, nested := strings.Cut(name, "."); nested && p.find("content", outer) >= 0 {
			return b, false
		}
	}
	noRoom := v.RoomIDIsHash && string(kind) == "m.room.create"
	b = append(b, '{')
	n := 0
	for _, k := range p.keysOf(0) {
		name := p.nodes[k].text
		switch string(name) {
		case "signatures", "unsigned", "age_ts":
			continue
		case "room_id":
			if noRoom {
				continue
			}
		case "content":
			b = append(p.appendKey(b, k, &n), '{')
			b = append(p.appendKept(b, k+1, keep), '}')
			continue
		}
		if contains(v.Keep, name) {
			b = p.appendCanonical(p.appendKey(b, k, &n), k+1)
		}
	}
	return append(b, '}'), true
}

// appendKept appends the members of content that a redaction keeps.
func (p *Plain) appendKept(b []byte, content int32, keep []string) []byte {
	n := 0
	for _, k := range p.keysOf(content) {
		name := p.nodes[k].text
		// With a point in it it names a key in a key, and not this one.
		if contains(keep, name) && !bytes.Contains(name, []byte{'.'}) || slices.Contains(keep, "*") {
			b = p.appendCanonical(p.appendKey(b, k, &n), k+1)
		}
	}
	return b
}

func contains(list []string, name []byte) bool {
	for _, s := range list {
		if s == string(name) {
			return true
		}
	}
	return false
}

// AppendContent appends what [Version.ContentHash] is the hash of.
func (p *Plain) AppendContent(b []byte) []byte {
	b = append(b, '{')
	n := 0
	for _, k := range p.keysOf(0) {
		switch string(p.nodes[k].text) {
		case "unsigned", "signatures", "hashes", "age_ts", "outlier", "destinations":
			continue
		}
		b = p.appendCanonical(p.appendKey(b, k, &n), k+1)
	}
	return append(b, '}')
}

// HasContentHash reports what [Version.CheckContentHash] finds, of what
// [Plain.AppendContent] gave.
func (p *Plain) HasContentHash(content []byte) bool {
	text, ok := p.Text("hashes", "sha256")
	if !ok || len(text) == 0 {
		return false
	}
	sum := sha256.Sum256(content)
	var spelled [44]byte
	if string(base64.RawStdEncoding.AppendEncode(spelled[:0], sum[:])) == string(text) {
		return true
	}
	want, err := decode64(string(text))
	return err == nil && bytes.Equal(want, sum[:])
}

// AppendID appends what [Version.EventIDOf] gives; nothing when the event has no id.
func (p *Plain) AppendID(b []byte, v *Version, signed []byte) []byte {
	if v.IDFormat == IDInEvent {
		if id, _ := p.Text("event_id"); len(id) > 0 && id[0] == '$' {
			return append(b, id...)
		}
		return b
	}
	sum := sha256.Sum256(signed)
	b = append(b, '$')
	if v.IDFormat == IDBase64 {
		return base64.RawStdEncoding.AppendEncode(b, sum[:])
	}
	return base64.RawURLEncoding.AppendEncode(b, sum[:])
}

// appendKey appends a key of an object, which has n before it.
func (p *Plain) appendKey(b []byte, k int32, n *int) []byte {
	if *n++; *n > 1 {
		b = append(b, ',')
	}
	return append(p.appendCanonical(b, k), ':')
}

func (p *Plain) appendCanonical(b []byte, i int32) []byte {
	x := &p.nodes[i]
	if x.same {
		return append(b, p.text[x.from:x.to]...)
	}
	switch x.kind {
	case '0':
		return strconv.AppendInt(b, x.n, 10)
	case '"':
		b, _ = appendString(b, string(x.text)) // it is UTF-8
		return b
	case '[':
		b = append(b, '[')
		for j := i + 1; j < x.next; j = p.nodes[j].next {
			if j > i+1 {
				b = append(b, ',')
			}
			b = p.appendCanonical(b, j)
		}
		return append(b, ']')
	}
	b = append(b, '{')
	n := 0
	for _, k := range p.keysOf(i) {
		b = p.appendCanonical(p.appendKey(b, k, &n), k+1)
	}
	return append(b, '}')
}

// AppendCBOR appends the stripped event in the deterministic encoding of CBOR (RFC 8949,
// 4.2.1), as an archive has it.
func (p *Plain) AppendCBOR(b []byte) []byte {
	var few [24]int32
	keys := few[:0]
	for _, k := range p.keysOf(0) {
		if !contains(stripped(), p.nodes[k].text) {
			keys = append(keys, k)
		}
	}
	return p.appendMap(b, keys)
}

// Major types of CBOR (RFC 8949, 3.1), as the high bits of a head.
const (
	cborUint   = 0
	cborNegint = 1
	cborText   = 3
	cborArray  = 4
	cborMap    = 5
	cborFalse  = 7<<5 | 20
	cborTrue   = 7<<5 | 21
	cborNull   = 7<<5 | 22
)

// appendMap appends an object of those keys, which come in canonical order: in CBOR the
// shorter ones are first.
func (p *Plain) appendMap(b []byte, keys []int32) []byte {
	slices.SortStableFunc(keys, func(a, b int32) int { return len(p.nodes[a].text) - len(p.nodes[b].text) })
	b = AppendHead(b, cborMap, uint64(len(keys)))
	for _, k := range keys {
		b = p.appendCBOR(p.appendCBOR(b, k), k+1)
	}
	return b
}

func (p *Plain) appendCBOR(b []byte, i int32) []byte {
	x := &p.nodes[i]
	switch x.kind {
	case '"':
		return append(AppendHead(b, cborText, uint64(len(x.text))), x.text...)
	case '0':
		if x.n < 0 {
			return AppendHead(b, cborNegint, uint64(-1-x.n))
		}
		return AppendHead(b, cborUint, uint64(x.n))
	case '[':
		b = AppendHead(b, cborArray, uint64(x.n))
		for j := i + 1; j < x.next; j = p.nodes[j].next {
			b = p.appendCBOR(b, j)
		}
		return b
	case '{':
		var few [24]int32
		return p.appendMap(b, append(few[:0], p.keysOf(i)...))
	case 't':
		return append(b, cborTrue)
	case 'f':
		return append(b, cborFalse)
	}
	return append(b, cborNull)
}

// AppendHead writes the head of a CBOR data item of a major type, 0 to 7, in its
// shortest form (RFC 8949 section 3).
func AppendHead(b []byte, major byte, n uint64) []byte {
	m := major << 5
	switch {
	case n < 24:
		return append(b, m|byte(n))
	case n <= 0xff:
		return append(b, m|24, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, m|25), uint16(n))
	case n <= 0xffffffff:
		return binary.BigEndian.AppendUint32(append(b, m|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, m|27), n)
}
