package archive

import (
	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/mspf/event"
)

// textOf is the text of one event: read flat where that can be done, else into a tree.
type textOf struct {
	version *event.Version
	json    []byte
	exact   bool
	flat    bool // plain has it
	tree    map[string]any
	before  string // what it replaced, of a tree

	plain   *event.Plain
	scratch *[2][]byte // what is signed, what is hashed
}

func (t *textOf) read() {
	if t.plain == nil {
		t.plain, t.scratch = &event.Plain{}, &[2][]byte{}
	}
	if t.flat = t.plain.Read(t.json); t.flat {
		t.exact = true
		return
	}
	t.tree, t.exact, _ = event.Parse(t.json) // of an error [mspf.Write] says what becomes of it
	t.before = t.str("unsigned", "replaces_state")
	event.Strip(t.tree)
}

// object says whether it is an event at all.
func (t *textOf) object() bool { return t.flat || t.tree != nil }

// parsed gives the tree of what is stripped; nil when there is none.
func (t *textOf) parsed() map[string]any {
	if !t.flat {
		return t.tree
	}
	tree, _, _ := event.Parse(t.json)
	event.Strip(tree)
	return tree
}

func (t *textOf) str(path ...string) string {
	if t.flat {
		text, _ := t.plain.Text(path...)
		return string(text)
	}
	text, _ := t.at(path...).(string)
	return text
}

func (t *textOf) at(path ...string) any {
	var v any = t.tree
	for _, name := range path {
		object, _ := v.(map[string]any)
		v = object[name]
	}
	return v
}

func (t *textOf) depth() int64 {
	if t.flat {
		return t.plain.Int("depth")
	}
	depth, _ := t.tree["depth"].(int64)
	return depth
}

func (t *textOf) stateKey() (key string, is bool) {
	if t.flat {
		text, is := t.plain.Text("state_key")
		return string(text), is
	}
	key, is = t.tree["state_key"].(string)
	return key, is
}

// replaced is what an event of the state took the place of, as Synapse noted it.
func (t *textOf) replaced() string {
	if t.flat {
		return t.str("unsigned", "replaces_state")
	}
	return t.before
}

func (t *textOf) references(key string, each func(id []byte)) {
	if t.flat {
		t.plain.References(key, each)
		return
	}
	for _, id := range event.References(t.tree, key) {
		each([]byte(id))
	}
}

// signature gives one of ours; false when there is no such key.
func (t *textOf) signature(server, key string) (text []byte, there bool) {
	if t.flat {
		text, _ = t.plain.Text("signatures", server, key)
		return text, t.plain.Has("signatures", server, key)
	}
	keys, _ := t.at("signatures", server).(map[string]any)
	s, there := keys[key]
	own, _ := s.(string)
	return []byte(own), there
}

// signed gives what is signed, until the next event.
func (t *textOf) signed() (b []byte, ok bool) {
	if t.flat {
		if t.scratch[0], ok = t.plain.AppendSigned(t.scratch[0][:0], t.version); ok {
			return t.scratch[0], true
		}
	}
	b, err := t.version.Signed(t.parsed())
	return b, err == nil
}

func (t *textOf) hasID(id string, signed []byte) bool {
	if t.flat {
		var room [64]byte
		return id != "" && string(t.plain.AppendID(room[:0], t.version, signed)) == id
	}
	own, err := t.version.EventIDOf(t.tree, signed)
	return err == nil && own == id
}

func (t *textOf) hasContentHash() bool {
	if t.flat {
		t.scratch[1] = t.plain.AppendContent(t.scratch[1][:0])
		return t.plain.HasContentHash(t.scratch[1])
	}
	return t.version.CheckContentHash(t.tree) == nil
}

// cbor appends the event as the archive has it; of what is none nothing.
func (t *textOf) cbor(dst []byte) ([]byte, error) {
	if t.flat {
		return t.plain.AppendCBOR(dst), nil
	}
	raw, err := mspf.EncodeEvent(t.parsed())
	return append(dst, raw...), err
}
