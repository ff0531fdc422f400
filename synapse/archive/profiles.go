package archive

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"lifeboat.im/lifeboat/mspf"
)

const itemProfiles = mspf.Prefix + "users"

// profileTables are what im.lifeboat.users is made of: the column of the user, the other
// columns, and what a row adds.
func (b *builder) profileTables() []profileTable {
	return []profileTable{
		{"users", "name", []string{
			"admin", "deactivated", "locked", "suspended", "shadow_banned", "approved", "is_guest", "user_type", "appservice_id",
			"consent_version", "consent_ts", "consent_server_notice_sent", "password_hash",
		}, b.addAccount},
		{"profiles", "user_id", []string{"displayname", "avatar_url", "fields"}, b.addProfile},
		{"account_data", "user_id", []string{"account_data_type", "content"}, b.addAccountData},
		{"room_account_data", "user_id", []string{"room_id", "account_data_type", "content"}, b.addRoomAccountData},
		{"push_rules", "user_name", []string{"priority_class", "priority", "rule_id", "conditions", "actions"}, b.addPushRule},
		{"push_rules_enable", "user_name", []string{"rule_id", "enabled"}, addPushEnabled},
		{"pushers", "user_name", []string{
			"kind", "app_id", "app_display_name", "device_display_name", "pushkey", "profile_tag", "lang", "data", "enabled", "device_id",
		}, b.addPusher},
		{"receipts_linearized", "user_id", []string{"room_id", "receipt_type", "thread_id", "event_id", "data"}, b.addReceipt},
		{"user_filters", "user_id", []string{"filter_id", "filter_json"}, b.addFilter},
		{"thread_subscriptions", "user_id", []string{"room_id", "event_id", "subscribed", "automatic"}, addThread},
		{"user_threepids", "user_id", []string{"medium", "address", "validated_at", "added_at"}, addThreePID},
		{"user_threepid_id_server", "user_id", []string{"medium", "address", "id_server"}, addThreePIDServer},
		{"user_external_ids", "user_id", []string{"auth_provider", "external_id"}, addExternalID},
		{"erased_users", "user_id", nil, func(d *mspf.UserDetails, _ reader) { d.Status.Erased = true }},
		{"account_validity", "user_id", []string{"expiration_ts_ms"}, func(d *mspf.UserDetails, v reader) { d.ExpiresTS = v.columnInt() }},
		{"ratelimit_override", "user_id", []string{"messages_per_second", "burst_count"}, func(d *mspf.UserDetails, v reader) {
			d.RateLimit = &mspf.RateLimit{PerSecond: v.columnInt(), Burst: v.columnInt()}
		}},
		{"devices", "user_id", []string{"device_id", "last_seen", "ip", "user_agent", "hidden"}, addLastSeen},
		{"dehydrated_devices", "user_id", []string{"device_id", "device_data"}, b.addDehydrated},
	}
}

type profileTable struct {
	name, user string
	columns    []string
	add        func(d *mspf.UserDetails, v reader)
}

func (b *builder) prepareProfiles(c *mspf.Contents) error {
	tables := b.profileTables()
	s := b.sorter(8)
	for i, t := range tables {
		if err := b.table(s, byte(i), t.name, t.user, t.columns...); err != nil {
			return err
		}
	}
	sorted, err := s.Sorted()
	if err != nil {
		return err
	}
	c.Profiles = func(yield func(mspf.UserDetails, error) bool) {
		for g, err := range b.byUser(sorted) {
			if err != nil {
				yield(mspf.UserDetails{}, err)
				return
			}
			d, account := mspf.UserDetails{ID: string(g.key[4:])}, false
			for p, err := range g.pairs {
				if err != nil {
					yield(d, err)
					return
				}
				kind := p.Key[len(p.Key)-1]
				account = account || kind == 0
				if !account { // the account's own row comes first
					b.report.add(1, mspf.Loss{Item: itemProfiles, Key: tables[kind].name, Code: "no_account", State: mspf.Unsupported, Reason: noAccount})
					continue
				}
				tables[kind].add(&d, reader(p.Value))
			}
			if account && !yield(d, nil) {
				return
			}
		}
	}
	return nil
}

func (b *builder) addAccount(d *mspf.UserDetails, v reader) {
	d.Status = mspf.UserStatus{
		Admin: v.columnBool(), Deactivated: v.columnBool(), Locked: v.columnBool(), Suspended: v.columnBool(), ShadowBanned: v.columnBool(),
		Approved: v.columnApproved(), Guest: v.columnBool(),
	}
	d.Type, d.AppService = v.columnText(), v.columnText()
	consent := mspf.Consent{Version: v.columnText(), TS: v.columnInt(), NoticeSent: v.columnText()}
	if consent != (mspf.Consent{}) {
		d.Consent = &consent
	}
	if v.columnText() != "" && !b.o.withoutPasswords() {
		d.Password = b.o.Password
	}
}

// columnApproved: accounts from before approval was asked for have none, and count as
// approved (synapse/storage/databases/main/registration.py: is_user_approved).
func (r *reader) columnApproved() bool {
	text, null := r.column()
	return null || string(text) == "t"
}

func (b *builder) addProfile(d *mspf.UserDetails, v reader) {
	d.Profile = map[string]any{}
	for _, name := range []string{"displayname", "avatar_url"} {
		if text, null := v.column(); !null {
			d.Profile[name] = string(text)
		}
	}
	if text, null := v.column(); !null {
		maps.Copy(d.Profile, b.object(itemProfiles, d.ID, text))
	}
}

func (b *builder) addAccountData(d *mspf.UserDetails, v reader) {
	if d.AccountData.Global == nil {
		d.AccountData.Global = map[string]any{}
	}
	kind := v.columnText()
	text, _ := v.column()
	d.AccountData.Global[kind] = b.json(itemProfiles, d.ID, text)
}

func (b *builder) addRoomAccountData(d *mspf.UserDetails, v reader) {
	if d.AccountData.Rooms == nil {
		d.AccountData.Rooms = map[string]map[string]any{}
	}
	room, kind := v.columnText(), v.columnText()
	if d.AccountData.Rooms[room] == nil {
		d.AccountData.Rooms[room] = map[string]any{}
	}
	text, _ := v.column()
	d.AccountData.Rooms[room][kind] = b.json(itemProfiles, d.ID, text)
}

func (b *builder) addPushRule(d *mspf.UserDetails, v reader) {
	rule := map[string]any{"priority_class": v.columnInt(), "priority": v.columnInt(), "rule_id": v.columnText()}
	for _, name := range []string{"conditions", "actions"} {
		text, _ := v.column()
		rule[name] = b.json(itemProfiles, d.ID, text)
	}
	d.PushRules = append(d.PushRules, rule)
}

func addPushEnabled(d *mspf.UserDetails, v reader) {
	if d.PushEnabled == nil {
		d.PushEnabled = map[string]bool{}
	}
	d.PushEnabled[v.columnText()] = v.columnBool()
}

func (b *builder) addPusher(d *mspf.UserDetails, v reader) {
	p := map[string]any{}
	for _, name := range []string{"kind", "app_id", "app_display_name", "device_display_name", "pushkey", "profile_tag", "lang"} {
		if text, null := v.column(); !null {
			p[name] = string(text)
		}
	}
	if text, null := v.column(); !null {
		p["data"] = b.json(itemProfiles, d.ID, text)
	}
	p["enabled"] = true // older rows say nothing
	if text, null := v.column(); !null {
		p["enabled"] = string(text) == "t"
	}
	if text, null := v.column(); !null {
		p["device_id"] = string(text)
	}
	d.Pushers = append(d.Pushers, p)
}

func (b *builder) addReceipt(d *mspf.UserDetails, v reader) {
	r := mspf.Receipt{Room: v.columnText(), Type: v.columnText(), Thread: v.columnText(), Event: v.columnText()}
	text, _ := v.column()
	r.Data = b.json(itemProfiles, d.ID, text)
	d.Receipts = append(d.Receipts, r)
}

func (b *builder) addFilter(d *mspf.UserDetails, v reader) {
	if d.Filters == nil {
		d.Filters = map[string]any{}
	}
	id := v.columnText()
	text, _ := v.column()
	d.Filters[id] = b.json(itemProfiles, d.ID, bytea(text))
}

func addThread(d *mspf.UserDetails, v reader) {
	t := map[string]any{"room_id": v.columnText(), "event_id": v.columnText(), "subscribed": v.columnBool(), "automatic": v.columnBool()}
	d.Threads = append(d.Threads, t)
}

func addThreePID(d *mspf.UserDetails, v reader) {
	d.ThreePIDs = append(d.ThreePIDs, mspf.ThreePID{Medium: v.columnText(), Address: v.columnText(), ValidatedTS: v.columnInt(), AddedTS: v.columnInt()})
}

func addThreePIDServer(d *mspf.UserDetails, v reader) {
	medium, address, server := v.columnText(), v.columnText(), v.columnText()
	for i := range d.ThreePIDs {
		if t := &d.ThreePIDs[i]; t.Medium == medium && t.Address == address {
			t.Servers = append(t.Servers, server)
		}
	}
}

func addExternalID(d *mspf.UserDetails, v reader) {
	d.ExternalIDs = append(d.ExternalIDs, mspf.ExternalID{Provider: v.columnText(), ID: v.columnText()})
}

func addLastSeen(d *mspf.UserDetails, v reader) {
	device := v.columnText()
	seen := mspf.LastSeen{TS: v.columnInt(), IP: v.columnText(), UserAgent: v.columnText()}
	if v.columnBool() || seen == (mspf.LastSeen{}) {
		return
	}
	if d.LastSeen == nil {
		d.LastSeen = map[string]mspf.LastSeen{}
	}
	d.LastSeen[device] = seen
}

func (b *builder) addDehydrated(d *mspf.UserDetails, v reader) {
	id := v.columnText()
	text, _ := v.column()
	d.Dehydrated = map[string]any{"device_id": id, "device_data": b.json(itemProfiles, d.ID, text)}
}

// highestLocalpart is the highest number that the server gave as a localpart.
func highestLocalpart(user string) int64 {
	name, _, _ := strings.Cut(strings.TrimPrefix(user, "@"), ":")
	n, err := strconv.ParseInt(name, 10, 64)
	if err != nil || n < 0 || name != fmt.Sprint(n) {
		return 0
	}
	return n
}
