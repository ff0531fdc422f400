package archive

import (
	"crypto/ed25519"
	"encoding/base64"
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

	text   textOf   // the event's
	hashes []uint64 // of what it names
}

func (b *placer) batch(x *batch) {
	for i := range x.events {
		x.placed = append(x.placed, b.place(x, &x.events[i]))
	}
}

func (b *placer) place(x *batch, e *stored) placedEvent {
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
	b.text = textOf{version: &r.rules, json: e.json, plain: b.text.plain, scratch: b.text.scratch}
	b.text.read()
	if e.kind == "" {
		e.kind = b.text.str("type")
	}
	if e.sender == "" {
		e.sender = b.text.str("sender")
	}
	m.RedactedBy = b.redactedBy(e, b.bans)
	if r.known && b.text.object() {
		b.checked(e, &m)
	}
	p := placedEvent{key: x.take(b.placeOf(x.out, e, r))}
	p.refs = x.take(b.references(x.out, e, &m))
	text, exact, raw := e.json, b.text.exact, b.text.cbor
	if !b.text.object() {
		raw = nil
	}
	if m.RedactedBy != "" && !m.Censored && !b.o.AsStored {
		text, exact, raw = b.redacted(e, r, &m)
	}
	p.text = x.take(encodeEvent(x.out, &m, raw, exact, text))
	p.keepInvite(e, text)
	return p
}

// take gives what was appended to the memory for what is made of a batch.
func (x *batch) take(longer []byte) []byte {
	n := len(x.out)
	x.out = longer
	return longer[n:len(longer):len(longer)]
}

// checked holds the event against its id, its hash and our signature.
func (b *placer) checked(e *stored, m *mspf.EventMeta) {
	signed, ok := b.text.signed()
	if !ok || !b.text.hasID(e.id, signed) {
		b.report.add(1, mspf.Loss{Item: "m.events", Key: e.room, Code: "event_id", State: mspf.Lossy, Reason: "the stored event is not the one that its id names: an importer will not accept it"})
	}
	if !b.text.hasContentHash() {
		if isRedacted(e.facts.rules, b.text.parsed()) {
			m.Censored = true
		} else {
			b.report.add(1, mspf.Loss{Item: "m.events", Key: e.room, Code: "content_hash", State: mspf.Lossy, Reason: "the content is not what its hash says, and no redaction says why"})
		}
	}
	if ok {
		b.signature(e, signed)
	}
}

// redacted gives what a redaction leaves of an event; nothing when that cannot be told:
// rather than what was taken back. Of a room version that is not known here the rules of
// the newest one are taken.
func (b *placer) redacted(e *stored, r *room, m *mspf.EventMeta) (text []byte, exact bool, raw func([]byte) ([]byte, error)) {
	rules := r.rules
	if !r.known {
		all := event.Versions()
		rules = all[len(all)-1]
		b.report.add(1, mspf.Loss{Item: "m.events", Key: e.room, Code: "redaction_guessed", State: mspf.Lossy, Reason: "redacted events of a room version that is not known here: what the newest known one leaves of them"})
	}
	if tree := b.text.parsed(); tree != nil {
		kept := rules.Redact(tree)
		if text, err := event.Canonical(kept); err == nil {
			m.Censored = true
			return text, event.Exact(kept), func(dst []byte) ([]byte, error) {
				raw, err := mspf.EncodeEvent(kept)
				return append(dst, raw...), err
			}
		}
	}
	b.report.add(1, mspf.Loss{Item: "m.events", Key: e.room, Code: "redaction_failed", State: mspf.Unsupported, Reason: "a redacted event cannot be written without its content: it is left out"})
	return nil, false, nil
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
func (b *placer) signature(e *stored, signed []byte) {
	if len(b.keys) == 0 || !b.local(e.sender) {
		return
	}
	checked := false
	for id, batch := range b.signatures {
		text, there := b.text.signature(b.server, id)
		if !there {
			continue
		}
		checked = true
		var room [64]byte
		signature, err := base64.RawStdEncoding.AppendDecode(room[:0], text)
		if err != nil {
			if signature, err = unpadded(string(text)); err != nil {
				signature = nil
			}
		}
		batch.Add(signed, signature)
	}
	if !checked {
		b.report.add(1, mspf.Loss{Item: "m.events", Code: "signature_unchecked", State: mspf.Absent, Reason: "events of this server that none of the known keys signed"})
	}
}

// placeOf sorts rooms of this server alone first, which nobody else has; in a room the
// create event, then by depth, then in the order in which the events came.
func (b *placer) placeOf(k []byte, e *stored, r *room) []byte {
	first := byte(0)
	if r.shared {
		first = 1
	}
	k = append(binary.BigEndian.AppendUint32(append(k, first), uint32(len(e.room))), e.room...) // as byLength has it
	if e.kind != "m.room.create" {
		k = append(k, 1)
	} else {
		k = append(k, 0)
	}
	return append(appendInt(appendInt(k, b.text.depth()), e.stream), e.id...)
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
func (b *placer) references(f fields, e *stored, m *mspf.EventMeta) fields {
	state, is := b.text.stateKey()
	f = f.bool(m.Outlier || m.OutOfBand || m.Rejected != "").bool(is)
	if is {
		f = f.text(e.kind).text(state).text(b.text.replaced())
	}
	f = binary.BigEndian.AppendUint64(f, maphash.String(b.seed, e.id))
	b.hashes = b.hashes[:0]
	b.text.references("prev_events", b.hash)
	f = f.int(int64(len(b.hashes)))
	b.text.references("auth_events", b.hash)
	for _, h := range b.hashes {
		f = binary.BigEndian.AppendUint64(f, h)
	}
	return f
}

func (b *placer) hash(id []byte) { b.hashes = append(b.hashes, maphash.Bytes(b.seed, id)) }

// encodeEvent keeps an event as the archive will have it, and its text only where it is
// needed. An event without both is left out.
func encodeEvent(f fields, m *mspf.EventMeta, raw func([]byte) ([]byte, error), exact bool, text []byte) fields {
	f = append(f, 0, 0, 0, 0)
	n := len(f)
	if raw != nil {
		longer, err := raw(f)
		if err == nil && len(longer)-n < 1<<28 {
			f = longer
			if exact {
				text = nil
			}
		}
	}
	putUvarint4(f[n-4:n], uint64(len(f)-n))
	return f.bytes(text).text(m.EventID).int(m.StreamOrdering).int(m.ReceivedTS).
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
