package synapseproof

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/internal/homeserver"
	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/synapse"
	"lifeboat.im/lifeboat/synapse/archive"
)

// TestArchiveOfAccounts: what an archive says of accounts, keys and waiting messages is
// what Synapse answered to the clients and to the admin just before.
func TestArchiveOfAccounts(t *testing.T) {
	l := newLab(t, func(o *homeserver.Options) { o.Extra = map[string]any{"max_event_delay_duration": "24h"} })
	l.attach()
	k := l.start()
	l.ready()
	a := &accounts{past: newPast(t, l)}
	a.live()
	asked := a.ask()
	oneTime := l.db.Query(t, "SELECT key_id, key_json::json ->> 'key' FROM e2e_one_time_keys_json")
	at := l.mark("asked")
	k.Stop(t)
	waiting := got[*homeserver.Update](a.past)(a.bob.Sync(t.Context(), "", 0)).ToDevice.Events

	home, err := synapse.ReadHomeserver(l.server.ConfigPath())
	a.must(err)
	p := l.exportAs("folder", "lsn:"+at.String(), func(o *archive.Options) {
		o.Password = &mspf.Password{Scheme: "bcrypt", Peppered: home.Peppered, Normalization: "NFKC", MaxBytes: 72}
	})
	a.compare(p, asked)
	a.waiting(p, waiting)
	a.never(p, oneTime)
}

// accounts are people who use what an account can hold.
type accounts struct {
	*past
	filter string
}

// live does all of it.
func (a *accounts) live() {
	ctx := a.t.Context()
	a.before()
	_, err := a.l.server.Login(ctx, "alice", a.alice.Password, "TABLET")
	a.must(err)
	a.must(a.alice.SetProfile(ctx, "displayname", "Älice \U0001f6df"))
	a.must(a.alice.SetTag(ctx, a.room, "m.favourite", 0.25))
	a.must(a.alice.SetTag(ctx, a.room, "u.work", 0.5))
	a.must(a.alice.SetAccountData(ctx, "", "org.example.note", map[string]any{"n": 1, "deep": []any{map[string]any{"x": "y"}}}))
	a.must(a.alice.SetAccountData(ctx, a.room, "org.example.room", map[string]any{"color": "red"}))
	a.must(a.alice.Ignore(ctx, "@nuisance:localhost"))
	a.filter, err = a.alice.AddFilter(ctx, map[string]any{"room": map[string]any{"timeline": map[string]any{"limit": 7}}})
	a.must(err)
	a.must(a.alice.SetPushRule(ctx, "lifeboat", "lifeboat"))
	a.must(a.alice.Do(ctx, http.MethodPut, "/_matrix/client/v3/pushrules/global/override/.m.rule.master/enabled", map[string]any{"enabled": true}, nil))
	a.must(a.alice.SetPusher(ctx, "pushkey", "http://127.0.0.1:9/_matrix/push/v1/notify"))
	a.must(a.alice.Receipt(ctx, a.room, "m.read", a.root, "main"))
	second := got[string](a.past)(a.alice.NewKeyBackup(ctx)) // the first one stays, unused
	a.must(a.alice.BackUpKey(ctx, second, a.room, "session-2", "sealed anew"))
	a.must(a.alice.Do(ctx, http.MethodDelete, "/_matrix/client/v3/room_keys/version/"+a.backup, nil, nil))
	a.backup = second
	a.toBob(a.l.server, "after the first")
	a.must(a.l.admin.Do(ctx, http.MethodPost, homeserver.Path("/_synapse/admin/v1/deactivate", a.carol.UserID), map[string]any{"erase": true}, nil))
}

// answers are what Synapse says of alice, and of the state of everybody.
type answers struct {
	users                        map[string]map[string]any // the admin's view, by user id
	devices                      map[string]map[string]any // of alice, the admin's view
	profile, note, ignored, room map[string]any
	tags, filter, pushers        map[string]any
	rules                        map[string]any
	keys                         *homeserver.PublicKeys
	backup, sessions             map[string]any
}

func (a *accounts) ask() answers {
	ctx := a.t.Context()
	get := func(c *homeserver.Client, path string) map[string]any {
		a.t.Helper()
		var v map[string]any
		a.must(c.Do(ctx, http.MethodGet, path, nil, &v))
		return v
	}
	alice := a.alice.UserID
	own := homeserver.Path("/_matrix/client/v3/user", alice)
	all := answers{
		users: map[string]map[string]any{}, devices: map[string]map[string]any{},
		profile: get(a.alice, homeserver.Path("/_matrix/client/v3/profile", alice)),
		note:    get(a.alice, homeserver.Path(own, "account_data", "org.example.note")), ignored: get(a.alice, homeserver.Path(own, "account_data", "m.ignored_user_list")),
		room: get(a.alice, homeserver.Path(own, "rooms", a.room, "account_data", "org.example.room")), tags: get(a.alice, homeserver.Path(own, "rooms", a.room, "tags")),
		filter: get(a.alice, homeserver.Path(own, "filter", a.filter)), pushers: get(a.alice, "/_matrix/client/v3/pushers"),
		rules:  get(a.alice, "/_matrix/client/v3/pushrules/global/"),
		keys:   got[*homeserver.PublicKeys](a.past)(a.alice.QueryKeys(ctx, alice, a.bob.UserID)),
		backup: get(a.alice, "/_matrix/client/v3/room_keys/version"), sessions: get(a.alice, "/_matrix/client/v3/room_keys/keys?version="+a.backup),
	}
	for _, c := range []*homeserver.Client{a.alice, a.bob, a.carol, a.l.admin} {
		all.users[c.UserID] = get(a.l.admin, homeserver.Path("/_synapse/admin/v2/users", c.UserID))
	}
	for _, d := range get(a.l.admin, homeserver.Path("/_synapse/admin/v2/users", alice, "devices"))["devices"].([]any) {
		d := d.(map[string]any)
		all.devices[d["device_id"].(string)] = d
	}
	return all
}

// elements gives the elements of an item by key.
func elements[T any](p *packed, item string) map[string]T {
	p.lab.t.Helper()
	all := map[string]T{}
	_, err := mspf.Read(p.lab.t.Context(), p.file, p.read, func(e mspf.Element) error {
		if e.Item != item {
			return nil
		}
		var v T
		err := e.Decode(&v)
		all[e.Key] = v
		return err
	})
	if err != nil {
		p.lab.t.Fatal(err)
	}
	return all
}

// same compares two trees as JSON, in which numbers have one spelling.
func (a *accounts) same(what string, have, want any) {
	a.t.Helper()
	var trees [2]any
	for i, v := range []any{have, want} {
		text, err := json.Marshal(v)
		a.must(err)
		a.must(json.Unmarshal(text, &trees[i]))
	}
	if !reflect.DeepEqual(trees[0], trees[1]) {
		a.t.Errorf("%s: the archive says %v, and Synapse %v", what, trees[0], trees[1])
	}
}

func (a *accounts) compare(p *packed, asked answers) {
	users, details := elements[mspf.User](p, "m.users"), elements[mspf.UserDetails](p, "im.lifeboat.users")
	if have, want := slices.Sorted(maps.Keys(users)), slices.Sorted(maps.Keys(asked.users)); !slices.Equal(have, want) {
		a.t.Errorf("users %v, want %v", have, want)
	}
	for id, want := range asked.users {
		s := details[id].Status
		a.same("status of "+id, []any{s.Admin, s.Deactivated, s.Locked, s.Suspended, s.ShadowBanned, s.Erased, s.Guest, users[id].CreatedAt},
			[]any{want["admin"], want["deactivated"], want["locked"], want["suspended"], want["shadow_banned"], want["erased"], want["is_guest"], seconds(want["creation_ts"])})
		if want["deactivated"] != true && (!strings.HasPrefix(users[id].PasswordHash, "$2b$") || details[id].Password == nil || !details[id].Password.Peppered) {
			a.t.Errorf("%s: hash %.4q and scheme %+v, want a peppered bcrypt", id, users[id].PasswordHash, details[id].Password)
		}
	}
	alice, more := users[a.alice.UserID], details[a.alice.UserID]
	names, want := map[string]any{}, map[string]any{}
	for id, d := range alice.Devices {
		names[id] = d.DisplayName
	}
	for id, d := range asked.devices {
		want[id] = d["display_name"]
	}
	a.same("devices", names, want)
	a.same("profile", more.Profile, asked.profile)
	a.same("tags", alice.RoomTags[a.room], asked.tags["tags"])
	a.same("account data", more.AccountData.Global["org.example.note"], asked.note)
	a.same("ignored users", more.AccountData.Global["m.ignored_user_list"], asked.ignored)
	a.same("account data of a room", more.AccountData.Rooms[a.room]["org.example.room"], asked.room)
	a.same("filter", more.Filters[a.filter], asked.filter)
	a.push(more, asked)
	if !slices.ContainsFunc(more.Receipts, func(r mspf.Receipt) bool { return r.Room == a.room && r.Type == "m.read" && r.Event == a.root }) {
		a.t.Errorf("receipts: %+v", more.Receipts)
	}
	a.keys(elements[mspf.Keys](p, "m.e2e.keys"), asked)
}

// seconds of a time of the admin API, which older versions give so and newer in milliseconds.
func seconds(ts any) float64 {
	n, _ := ts.(float64)
	if n > 1e11 {
		return float64(int64(n) / 1000)
	}
	return n
}

// push compares the pusher, and alice's own rule among those that every account has.
func (a *accounts) push(d mspf.UserDetails, asked answers) {
	a.t.Helper()
	list, _ := asked.pushers["pushers"].([]any)
	if len(list) != 1 || len(d.Pushers) != 1 {
		a.t.Fatalf("pushers %v, want %v", d.Pushers, list)
	}
	have := d.Pushers[0].(map[string]any)
	for name, want := range list[0].(map[string]any) {
		if _, ok := have[name]; ok || want != nil && want != "" {
			a.same("pusher "+name, have[name], want)
		}
	}
	content, _ := asked.rules["content"].([]any)
	i := slices.IndexFunc(content, func(r any) bool { return r.(map[string]any)["rule_id"] == "lifeboat" })
	if i < 0 || len(d.PushRules) != 1 {
		a.t.Fatalf("rules %v, want one of %v", d.PushRules, content)
	}
	rule := d.PushRules[0].(map[string]any)
	want := content[i].(map[string]any)
	a.same("actions of a rule", rule["actions"], want["actions"])
	a.same("conditions of a rule", rule["conditions"], []any{map[string]any{"kind": "event_match", "key": "content.body", "pattern": want["pattern"]}})
	if rule["rule_id"] != "global/content/lifeboat" || !d.PushEnabled["global/override/.m.rule.master"] {
		a.t.Errorf("rule %v, enabled %v", rule, d.PushEnabled)
	}
}

func (a *accounts) keys(all map[string]mspf.Keys, asked answers) {
	a.t.Helper()
	for _, c := range []*homeserver.Client{a.alice, a.bob} {
		device, _ := all[c.UserID].DeviceKeys[c.DeviceID].(map[string]any)
		want := asked.keys.Devices[c.UserID][c.DeviceID]
		a.same("device keys", device["keys"], want["keys"])
		a.same("algorithms", device["algorithms"], want["algorithms"])
		if len(all[c.UserID].FallbackKeys[c.DeviceID]) != 1 {
			a.t.Errorf("%s: fallback keys %v", c.UserID, all[c.UserID].FallbackKeys)
		}
	}
	id := a.alice.UserID
	k := all[id]
	a.same("master key", part(k.CrossSigning["master"], "keys"), asked.keys.Master[id]["keys"])
	a.same("self-signing key", k.CrossSigning["self_signing"], asked.keys.SelfSigning[id])
	a.same("user-signing key", k.CrossSigning["user_signing"], asked.keys.UserSigning[id])
	// Synapse answers a device with the signatures that came later; the archive has them apart.
	signed, _ := part(asked.keys.Devices[id][a.alice.DeviceID]["signatures"], id).(map[string]any)
	for _, s := range k.Signatures {
		if s.User == id && s.Device == a.alice.DeviceID {
			a.same("signature", s.Signature, signed[s.KeyID])
			delete(signed, s.KeyID)
		}
	}
	if len(signed) != 1 || signed["ed25519:"+a.alice.DeviceID] == nil {
		a.t.Errorf("signatures that the archive does not have: %v", signed)
	}
	version, _ := asked.backup["version"].(string)
	b := k.Backups[version]
	a.same("backup", []any{b.Algorithm, b.AuthData, b.Etag, b.Deleted}, []any{asked.backup["algorithm"], asked.backup["auth_data"], asked.backup["etag"], false})
	want, _ := part(asked.sessions["rooms"], a.room).(map[string]any)
	a.same("sessions", b.Rooms[a.room], want["sessions"])
	if len(k.Backups) != 2 {
		a.t.Errorf("%d versions of the backup, want the deleted one, too", len(k.Backups))
	}
	for v, old := range k.Backups {
		if v != version && (!old.Deleted || len(old.Rooms) > 0) {
			a.t.Errorf("the deleted backup: %+v", old)
		}
	}
}

// part gives a value of a tree.
func part(tree any, key string) any {
	m, _ := tree.(map[string]any)
	return m[key]
}

// waiting compares what bob's device is given when it asks next, in that order.
func (a *accounts) waiting(p *packed, want []homeserver.Event) {
	a.t.Helper()
	have := elements[map[string][]map[string]any](p, "m.e2e.to_device")[a.bob.UserID][a.bob.DeviceID]
	if len(want) < 2 || len(have) != len(want) {
		a.t.Fatalf("%d messages wait in the archive, and %d came", len(have), len(want))
	}
	for i, w := range want {
		a.same(fmt.Sprintf("message %d", i), []any{have[i]["sender"], have[i]["type"], have[i]["content"]}, []any{w.Sender, w.Type, w.Content})
	}
}

// never looks for what must not be in any file of an archive.
func (a *accounts) never(p *packed, oneTime [][]string) {
	a.t.Helper()
	secrets := map[string]string{}
	for _, k := range oneTime {
		secrets["one-time key "+k[0]] = k[1]
	}
	if len(secrets) < 12 {
		a.t.Errorf("only %d one-time keys are known", len(secrets))
	}
	conf, err := os.ReadFile(a.l.server.ConfigPath())
	a.must(err)
	for line := range strings.Lines(string(conf)) {
		if pepper, ok := strings.CutPrefix(strings.TrimSpace(line), "pepper: "); ok {
			secrets["pepper"] = strings.Trim(pepper, `"'`)
		}
	}
	if secrets["pepper"] == "" {
		a.t.Error("no pepper is known")
	}
	sought := "m.e2e.keys"
	files := 0
	a.must(filepath.WalkDir(p.file, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		for name, s := range secrets {
			if bytes.Contains(text, []byte(s)) {
				a.t.Errorf("%s is in %s", name, path)
			}
		}
		if bytes.Contains(text, []byte("sealed anew")) {
			sought = ""
		}
		return err
	}))
	if files < 10 || sought != "" {
		a.t.Errorf("the search looked through %d files, and did not find what is there", files)
	}
}
