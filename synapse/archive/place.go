package archive

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"strings"

	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/mspf/event"
)

// placedEvent is an event and its place.
type placedEvent struct {
	key  []byte // place in the archive: room and order within it
	text fields
	refs fields

	inviteKey []byte
	invite    fields // nil: it is none
}

// Events that came without their room, and other facts that decide how an event is
// meant, stand in internal_metadata.
func (e *stored) flag(name string) bool {
	v, _ := e.meta[name].(bool)
	return v
}

// placer checks events and says where they belong. There are several at work, each with
// signatures of its own, which are checked when enough have come together.
type placer struct {
	*builder
	bans       map[[2]string][]ban
	signatures batches
}

func (b *placer) batch(x *batch) {
	for i := range x.events {
		x.placed = append(x.placed, b.place(&x.events[i]))
	}
}

func (b *placer) place(e *stored) placedEvent {
	r := e.facts
	m := mspf.EventMeta{
		EventID: e.id, StreamOrdering: e.stream, ReceivedTS: e.received, Outlier: e.outlier, Rejected: e.rejected,
		SoftFailed: e.flag("soft_failed"), OutOfBand: e.flag("out_of_band_membership"), TxnID: e.txn, DeviceID: e.device,
	}
	for _, p := range []string{"policy_server_spammy", "spam_checker_spammy"} {
		if e.flag(p) {
			m.Policy = p
		}
	}
	tree, exact, err := event.Parse(e.json)
	if err != nil {
		tree = nil // [mspf.Write] says what becomes of it
	}
	unsigned, _ := tree["unsigned"].(map[string]any)
	replaced, _ := unsigned["replaces_state"].(string)
	event.Strip(tree)
	if e.kind == "" {
		e.kind, _ = tree["type"].(string)
	}
	if e.sender == "" {
		e.sender, _ = tree["sender"].(string)
	}
	m.RedactedBy = b.redactedBy(e, b.bans)
	if r.known && tree != nil {
		b.checked(e, r, tree, &m)
	}
	text, kept := e.json, tree
	if m.RedactedBy != "" && !m.Censored && !b.o.AsStored {
		text, kept = b.redacted(e, r, tree, &m)
		exact = event.Exact(kept)
	}
	p := placedEvent{key: b.placeOf(e, r, tree), text: encodeEvent(&m, kept, exact, text), refs: b.references(e, tree, replaced, &m)}
	p.keepInvite(e, text)
	return p
}

// checked holds the event against its id, its hash and our signature.
func (b *placer) checked(e *stored, r *room, tree map[string]any, m *mspf.EventMeta) {
	signed, err := r.rules.Signed(tree)
	id := ""
	if err == nil {
		id, err = r.rules.EventIDOf(tree, signed)
	}
	if err != nil || id != e.id {
		b.report.add(1, mspf.Loss{Item: "m.events", Key: e.room, Code: "event_id", State: mspf.Lossy, Reason: "the stored event is not the one that its id names: an importer will not accept it"})
	}
	if r.rules.CheckContentHash(tree) != nil {
		if isRedacted(r.rules, tree) {
			m.Censored = true
		} else {
			b.report.add(1, mspf.Loss{Item: "m.events", Key: e.room, Code: "content_hash", State: mspf.Lossy, Reason: "the content is not what its hash says, and no redaction says why"})
		}
	}
	b.signature(e, tree, signed)
}

// redacted gives what a redaction leaves of an event; nothing when that cannot be told:
// rather than what was taken back. Of a room version that is not known here the rules of
// the newest one are taken.
func (b *builder) redacted(e *stored, r *room, tree map[string]any, m *mspf.EventMeta) (text []byte, kept map[string]any) {
	rules := r.rules
	if !r.known {
		all := event.Versions()
		rules = all[len(all)-1]
		b.report.add(1, mspf.Loss{Item: "m.events", Key: e.room, Code: "redaction_guessed", State: mspf.Lossy, Reason: "redacted events of a room version that is not known here: what the newest known one leaves of them"})
	}
	if tree != nil {
		kept = rules.Redact(tree)
		if text, err := event.Canonical(kept); err == nil {
			m.Censored = true
			return text, kept
		}
	}
	b.report.add(1, mspf.Loss{Item: "m.events", Key: e.room, Code: "redaction_failed", State: mspf.Unsupported, Reason: "a redacted event cannot be written without its content: it is left out"})
	return nil, nil
}

// batches are signatures that wait to be checked, by the key's id.
type batches map[string]*event.Batch

// batches makes an empty one for each of our keys.
func (b *builder) batches() batches {
	all := batches{}
	for id, key := range b.keys {
		all[id] = &event.Batch{Key: key, Bad: func() {
			b.report.add(1, mspf.Loss{Item: "m.events", Key: id, Code: "signature", State: mspf.Lossy, Reason: "events of this server that its key did not sign"})
		}}
	}
	return all
}

// signature has our own checked on what our users sent.
func (b *placer) signature(e *stored, tree map[string]any, signed []byte) {
	if len(b.keys) == 0 || signed == nil || !b.local(e.sender) {
		return
	}
	by, _ := tree["signatures"].(map[string]any)
	ours, _ := by[b.server].(map[string]any)
	checked := false
	for id := range ours {
		batch := b.signatures[id]
		if batch == nil {
			continue
		}
		checked = true
		text, _ := ours[id].(string)
		signature, err := unpadded(text)
		if err != nil {
			signature = nil
		}
		batch.Add(signed, signature)
	}
	if !checked {
		b.report.add(1, mspf.Loss{Item: "m.events", Code: "signature_unchecked", State: mspf.Absent, Reason: "events of this server that none of the known keys signed"})
	}
}

// placeOf sorts rooms of this server alone first, which nobody else has; in a room the
// create event, then by depth, then in the order in which the events came.
func (b *builder) placeOf(e *stored, r *room, tree map[string]any) []byte {
	k := append(make([]byte, 0, len(e.room)+len(e.id)+24), 0)
	if r.shared {
		k[0] = 1
	}
	k = append(k, byLength(e.room)...)
	if e.kind != "m.room.create" {
		k = append(k, 1)
	} else {
		k = append(k, 0)
	}
	depth, _ := tree["depth"].(int64)
	k = appendInt(appendInt(k, depth), e.stream)
	return append(k, e.id...)
}

// roomOf is where the room ends in a key of placeOf.
func roomOf(k []byte) int {
	if len(k) < 5 {
		return len(k)
	}
	return min(5+int(binary.BigEndian.Uint32(k[1:])), len(k))
}

// references are what decides the order: hashes of the event's id and of those that it
// names. Loose events (outliers, rejected ones) may name what nobody has. Of a part of the
// state also what it replaced is kept, as Synapse noted it when it met the event
// (state/__init__.py, calculate_context_info).
func (b *builder) references(e *stored, tree map[string]any, replaced string, m *mspf.EventMeta) fields {
	state, is := tree["state_key"].(string)
	prev, auth := event.References(tree, "prev_events"), event.References(tree, "auth_events")
	f := make(fields, 0, 8*(len(prev)+len(auth))+32)
	f = f.bool(m.Outlier || m.OutOfBand || m.Rejected != "").bool(is)
	if is {
		f = f.text(e.kind).text(state).text(replaced)
	}
	f = binary.BigEndian.AppendUint64(f, b.hash(e.id))
	f = f.int(int64(len(prev)))
	for _, ids := range [][]string{prev, auth} {
		for _, id := range ids {
			f = binary.BigEndian.AppendUint64(f, b.hash(id))
		}
	}
	return f
}

func (b *builder) hash(id string) uint64 { return maphash.String(b.seed, id) }

// encodeEvent keeps an event as the archive will have it, and its text only where it is
// needed. An event without both is left out.
func encodeEvent(m *mspf.EventMeta, tree map[string]any, exact bool, text []byte) fields {
	var raw []byte
	if tree != nil {
		var err error
		if raw, err = mspf.EncodeEvent(tree); err == nil && exact {
			text = nil
		}
	}
	return make(fields, 0, len(raw)+len(text)+len(m.Rejected)+256).bytes(raw).bytes(text).text(m.EventID).int(m.StreamOrdering).int(m.ReceivedTS).
		bool(m.Outlier).text(m.Rejected).bool(m.SoftFailed).bool(m.OutOfBand).bool(m.Censored).text(m.Policy).text(m.RedactedBy).text(m.TxnID).text(m.DeviceID)
}

func decodeEvent(v reader) (e mspf.Event) {
	e.CBOR, e.JSON = v.bytes(), v.bytes()
	e.Meta = mspf.EventMeta{
		EventID: v.text(), StreamOrdering: v.int(), ReceivedTS: v.int(), Outlier: v.bool(), Rejected: v.text(), SoftFailed: v.bool(),
		OutOfBand: v.bool(), Censored: v.bool(), Policy: v.text(), RedactedBy: v.text(), TxnID: v.text(), DeviceID: v.text(),
	}
	return e
}

// publicKey gives the key id and the public half of a line "ed25519 <version> <seed>".
func publicKey(line string) (id string, k ed25519.PublicKey, err error) {
	f := strings.Fields(line)
	if len(f) != 3 || f[0] != "ed25519" {
		return "", nil, errors.New("not a signing key: one line \"ed25519 <version> <seed in base64>\" is wanted")
	}
	seed, err := unpadded(f[2])
	if err != nil || len(seed) != ed25519.SeedSize {
		return "", nil, errors.New("not a signing key: its seed is not 32 bytes in base64")
	}
	return "ed25519:" + f[1], ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey), nil
}
