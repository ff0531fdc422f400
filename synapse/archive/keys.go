package archive

import "lifeboat.im/lifeboat/mspf"

const itemKeys = "m.e2e.keys"

// The parts of an entry of m.e2e.keys. One-time keys are none of them: a server that
// hands out a claimed one again makes messages unreadable.
const (
	keyDevice byte = iota
	keyFallback
	keyCrossSigning
	keySignature
	keyVersion
	keySession
)

// prepareKeys gathers the keys of local users. Those of others are theirs to give.
func (b *builder) prepareKeys(c *mspf.Contents) error {
	s := b.sorter(8)
	for _, t := range []struct {
		kind    byte
		name    string
		columns []string
	}{
		{keyDevice, "e2e_device_keys_json", []string{"device_id", "key_json"}},
		{keyFallback, "e2e_fallback_keys_json", []string{"device_id", "algorithm", "key_id", "key_json"}},
		{keySignature, "e2e_cross_signing_signatures", []string{"key_id", "target_user_id", "target_device_id", "signature"}},
		{keyVersion, "e2e_room_keys_versions", []string{"version", "algorithm", "auth_data", "etag", "deleted"}},
		{keySession, "e2e_room_keys", []string{"version", "room_id", "session_id", "first_message_index", "forwarded_count", "is_verified", "session_data"}},
	} {
		if err := b.table(s, t.kind, t.name, "user_id", t.columns...); err != nil {
			return err
		}
	}
	// Of each type the newest key is the one in use.
	for r, err := range b.rows("e2e_cross_signing_keys", "user_id", "keytype", "stream_id", "keydata") {
		if err != nil {
			return err
		}
		if user := r.text(0); b.local(user) {
			if err := s.Add(append(byLength(user), keyCrossSigning), append(appendInt(fields{}.text(r.text(1)), r.int(2)), fields{}.bytes(r.bytes(3))...)); err != nil {
				return err
			}
		}
	}
	sorted, err := s.Sorted()
	if err != nil {
		return err
	}
	c.Keys = func(yield func(mspf.Keys, error) bool) {
		for g, err := range b.byUser(sorted) {
			if err != nil {
				yield(mspf.Keys{}, err)
				return
			}
			u := userKeys{b: b, user: string(g.key[4:]), cross: map[string]any{}, deleted: map[string]bool{}, versions: map[string]bool{}}
			for p, err := range g.pairs {
				if err != nil {
					yield(mspf.Keys{}, err)
					return
				}
				k, ok := u.part(p.Key[len(p.Key)-1], reader(p.Value))
				if ok && !yield(k, nil) {
					return
				}
			}
			if len(u.cross) > 0 && !yield(mspf.Keys{User: u.user, CrossSigning: u.cross}, nil) {
				return
			}
		}
	}
	return nil
}

// userKeys makes the parts of one user's entry.
type userKeys struct {
	b                 *builder
	user              string
	cross             map[string]any
	versions, deleted map[string]bool
}

// part gives what a row adds; false when that comes later or never.
func (u *userKeys) part(kind byte, v reader) (k mspf.Keys, ok bool) {
	k.User = u.user
	switch kind {
	case keyDevice:
		device := v.columnText()
		text, _ := v.column()
		k.DeviceKeys = map[string]any{device: u.b.json(itemKeys, u.user, text)}
	case keyFallback:
		device, id := v.columnText(), v.columnText()+":"+v.columnText()
		text, _ := v.column()
		k.FallbackKeys = map[string]map[string]any{device: {id: u.b.json(itemKeys, u.user, text)}}
	case keyCrossSigning:
		kind := v.text()
		v = v[8:]
		u.cross[kind] = u.b.json(itemKeys, u.user, v.bytes())
		return k, false
	case keySignature:
		k.Signatures = []mspf.Signature{{KeyID: v.columnText(), User: v.columnText(), Device: v.columnText(), Signature: v.columnText()}}
	case keyVersion:
		version, algorithm := v.columnText(), v.columnText()
		text, _ := v.column()
		backup := mspf.Backup{Algorithm: algorithm, AuthData: u.b.json(itemKeys, u.user, text), Etag: v.columnText(), Deleted: v.columnBool()}
		u.versions[version], u.deleted[version] = true, backup.Deleted
		k.Backups = map[string]mspf.Backup{version: backup}
	case keySession:
		return u.session(k, v)
	}
	return k, true
}

func (u *userKeys) session(k mspf.Keys, v reader) (mspf.Keys, bool) {
	version, room, session := v.columnText(), v.columnText(), v.columnText()
	if u.deleted[version] {
		return k, false // of a deleted backup only its number is kept
	}
	if !u.versions[version] {
		u.b.report.add(1, mspf.Loss{Item: itemKeys, Key: u.user, Code: "no_backup_version", State: mspf.Unsupported, Reason: "keys of a backup that does not exist any more"})
		return k, false
	}
	data := map[string]any{"first_message_index": v.columnInt(), "forwarded_count": v.columnInt(), "is_verified": v.columnBool()}
	text, _ := v.column()
	data["session_data"] = u.b.json(itemKeys, u.user, text)
	k.Backups = map[string]mspf.Backup{version: {Rooms: map[string]map[string]any{room: {session: data}}}}
	return k, true
}

// prepareToDevice gathers what waits for local devices, in the order of delivery.
func (b *builder) prepareToDevice(c *mspf.Contents) error {
	s := b.sorter(16)
	for r, err := range b.rows("device_inbox", "user_id", "device_id", "stream_id", "message_json") {
		if err != nil {
			return err
		}
		if user := r.text(0); b.local(user) {
			if err := s.Add(appendInt(key(user, r.text(1)), r.int(2)), fields{}.text(user).text(r.text(1)).bytes(r.bytes(3))); err != nil {
				return err
			}
		}
	}
	sorted, err := s.Sorted()
	if err != nil {
		return err
	}
	c.ToDevice = func(yield func(mspf.ToDevice, error) bool) {
		for p, err := range b.pairs(sorted) {
			if err != nil {
				yield(mspf.ToDevice{}, err)
				return
			}
			v := reader(p.Value)
			m := mspf.ToDevice{User: v.text(), Device: v.text()}
			stored := b.object("m.e2e.to_device", m.User, v.bytes())
			message := map[string]any{}
			for _, name := range []string{"sender", "type", "content", "message_id"} {
				if x, ok := stored[name]; ok {
					message[name] = x
				}
			}
			if len(message) < 3 {
				b.report.add(1, mspf.Loss{Item: "m.e2e.to_device", Key: m.User, Code: "message_unreadable", State: mspf.Unsupported, Reason: "a message without sender, type or content"})
				continue
			}
			m.Message = message
			if !yield(m, nil) {
				return
			}
		}
	}
	return nil
}
