package mspf

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"lifeboat.im/lifeboat/mspf/event"
)

// Finding is something that Verify objects to in an archive that can be read.
type Finding struct {
	Code   string   // stable, for programs
	Item   string   //
	Text   string   // what the code means, for people
	Count  int64    // how often
	First  []string // where: the first few
	Notice bool     // worth knowing, and no fault of the archive
}

// Codes of findings.
const (
	CodeShape      = "shape"           // an element is not what the format says
	CodeEncoding   = "encoding"        // CBOR that is not in deterministic form: two exports could differ
	CodeVersion    = "room_version"    // a room version that is not known here: nothing of its events is checked
	CodeNoRoom     = "no_room"         // events of a room that m.rooms does not have
	CodeRoomID     = "room_id"         // an event in another room than it says
	CodeEventID    = "event_id"        // an event that is not the one its id names
	CodeHash       = "content_hash"    // content that its hash does not fit, and no redaction says why
	CodeSignature  = "signature"       // an event of this server that its key did not sign
	CodeMeta       = "event_meta"      // events and what is kept beside them do not go together
	CodeDuplicate  = "duplicate"       // the same event or user twice
	CodeOrder      = "order"           // "dag" is announced, and an event comes before one that it names
	CodeGap        = "gap"             // a named event is missing, and no gap is declared
	CodeGapKnown   = "gap_declared"    // notice: gaps that are declared
	CodeUnverified = "unverified"      // notice: what could not be checked
	CodeSplit      = "room_split"      // a room that goes on after other files came between
	CodeOTK        = "one_time_keys"   // one-time keys, which a restored server must not hand out again
	CodeKey        = "live_key_is_old" // the live signing key is listed among the old ones
)

// Verdict is what Verify found.
type Verdict struct {
	Outcome
	Findings []Finding // by code and item
	Events   int64     // whose ids were recomputed
	Signed   int64     // signatures of the archive's own server that were checked
}

// OK says that there is nothing to object to.
func (v *Verdict) OK() bool {
	return !slices.ContainsFunc(v.Findings, func(f Finding) bool { return !f.Notice })
}

// Verify checks an archive as far as that is possible without a homeserver: MSC2783's
// rules, the integrity item, the shape of every element; that every event is in its
// room, has the id, the content and the signatures that it says; and that every event
// which another one names is there or declared as a gap. It does not check
// authorization: that takes state resolution, and an importer has to do it.
//
// An error is an archive that cannot be read to its end or was altered; what else is
// wrong are findings. Each f is handed every element on the way, as by [Read]: an
// importer that plans needs no pass of its own.
func Verify(ctx context.Context, path string, o ReadOptions, f ...func(Element) error) (*Verdict, error) {
	v := newVerifier()
	element := func(e Element) error {
		err := v.element(e)
		for k := 0; k < len(f) && err == nil; k++ {
			err = f[k](e)
		}
		return err
	}
	out, err := walk(ctx, path, o, hooks{element: element, file: v.file})
	if err != nil {
		return nil, err
	}
	v.finish()
	verdict := &Verdict{Outcome: *out, Events: v.events, Signed: v.signed}
	for _, f := range v.found {
		verdict.Findings = append(verdict.Findings, *f)
	}
	slices.SortFunc(verdict.Findings, func(a, b Finding) int { return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Item, b.Item)) })
	return verdict, nil
}

func newVerifier() *verifier {
	v := &verifier{
		versions: map[string]string{}, known: map[string]event.Version{}, found: map[[2]string]*Finding{}, graph: newGraph(),
		suspects: map[uint64]suspect{}, raw: map[uint64]bool{}, keys: map[string]ed25519.PublicKey{}, seed: maphash.MakeSeed(), table: parts(),
	}
	for _, x := range event.Versions() {
		v.known[x.ID] = x
	}
	return v
}

// verifier sees every element once.
type verifier struct {
	core     Core
	archive  *Archive
	keys     map[string]ed25519.PublicKey // the server's own, by key id
	versions map[string]string            // of rooms
	known    map[string]event.Version
	table    []part
	found    map[[2]string]*Finding
	graph    *graph
	pending  []pendingEvent     // of the file of m.events that was read last
	metaAt   int                // how many of them have met their entry in event_meta
	suspects map[uint64]suspect // events that their text in raw_events has to clear, by room and id
	raw      map[uint64]bool    // events whose text is there
	lastUser string
	seed     maphash.Seed
	events   int64
	signed   int64
}

func (v *verifier) report(code, item, text, where string) {
	f := v.found[[2]string{code, item}]
	if f == nil {
		f = &Finding{Code: code, Item: item, Text: text, Notice: code == CodeGapKnown || code == CodeUnverified}
		v.found[[2]string{code, item}] = f
	}
	if f.Count++; len(f.First) < 5 {
		f.First = append(f.First, where)
	}
}

func (v *verifier) element(e Element) error {
	tree, err := e.Tree()
	if err != nil {
		return err
	}
	if again, err := encode(tree); err != nil || !bytes.Equal(again, e.raw) {
		v.report(CodeEncoding, e.Item, "the CBOR is not in deterministic form", e.Key)
	}
	p, _, _ := partOf(v.table, e.File)
	if err := p.value.check(tree, cmp.Or(e.Key, e.Item)); err != nil {
		v.report(CodeShape, e.Item, "an element is not what the format says", err.Error())
		return nil // its fields are not to be relied on
	}
	switch e.Item {
	case itemCore, itemArchive, itemServer:
		return v.server(e)
	case itemRooms:
		version := tree.(map[string]any)["version"].(string)
		if _, ok := v.known[version]; !ok {
			v.report(CodeVersion, e.Item, "a room version that is not known here", e.Key+" has version "+version)
		}
		v.versions[e.Key] = version
	case itemDetails, itemState:
		v.gaps(e)
	case itemEvents:
		v.event(e, tree.(map[string]any))
	case itemMeta:
		return v.meta(e)
	case itemRaw:
		v.rawEvents(e.Key, tree.(map[string]any))
	case itemUsers:
		if v.lastUser != "" && keyLess(v.lastUser, e.Key) >= 0 {
			v.report(CodeDuplicate, e.Item, "users are not ascending: one may be there twice", e.Key)
		}
		v.lastUser = e.Key
	case itemDatabase:
		if e.Key == oneTimeKeys {
			v.report(CodeOTK, e.Item, "one-time keys, which a restored server must not hand out again", e.Key)
		}
	}
	return nil
}

// server learns the keys that the server signs with.
func (v *verifier) server(e Element) error {
	switch e.Item {
	case itemArchive:
		v.archive = &Archive{}
		return e.Decode(v.archive)
	case itemCore:
		if err := e.Decode(&v.core); err != nil {
			return err
		}
		if v.core.SigningKey == "" {
			return nil
		}
		id, key, err := parseSigningKey(v.core.SigningKey)
		if err != nil {
			v.report(CodeShape, e.Item, "an element is not what the format says", err.Error())
			return nil
		}
		v.keys[id] = key.Public().(ed25519.PublicKey)
		return nil
	}
	var s Server
	if err := e.Decode(&s); err != nil {
		return err
	}
	for id, text := range s.VerifyKeys {
		v.addKey(id, text)
	}
	for id, old := range s.OldVerifyKeys {
		if _, ok := v.keys[id]; ok {
			v.report(CodeKey, e.Item, "a live key is listed as old: other servers refuse what it signs", id)
		}
		v.addKey(id, old.Key)
	}
	return nil
}

func (v *verifier) addKey(id, text string) {
	key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil || len(key) != ed25519.PublicKeySize {
		v.report(CodeShape, itemServer, "an element is not what the format says", id+" is not the base64 of 32 bytes")
		return
	}
	v.keys[id] = key
}

// parseSigningKey reads a line of signedjson: "ed25519 a_1 <base64 of the seed>".
func parseSigningKey(line string) (id string, _ ed25519.PrivateKey, _ error) {
	f := strings.Fields(line)
	if len(f) != 3 || f[0] != "ed25519" {
		return "", nil, fmt.Errorf("the signing key is not \"ed25519 VERSION BASE64\"")
	}
	seed, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(f[2], "="))
	if err != nil || len(seed) != ed25519.SeedSize {
		return "", nil, fmt.Errorf("the seed of the signing key is not the base64 of 32 bytes")
	}
	return "ed25519:" + f[1], ed25519.NewKeyFromSeed(seed), nil
}

func (v *verifier) hash(room, id string) uint64 {
	var h maphash.Hash
	h.SetSeed(v.seed)
	_, _ = h.WriteString(room)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(id)
	return h.Sum64()
}

func (v *verifier) file(p part, name string, _ int, plain bool) error {
	if !plain {
		v.report(CodeEncoding, p.item, "the CBOR is not in deterministic form", name)
	}
	if p.item == itemMeta {
		v.settle()
	}
	return nil
}
