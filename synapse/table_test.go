package synapse_test

import (
	"slices"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/synapse"
)

func TestTablesAreSortedAndFresh(t *testing.T) {
	a := synapse.Tables()
	for i := range a {
		if i > 0 && a[i-1].Name >= a[i].Name {
			t.Errorf("%s stands before %s", a[i-1].Name, a[i].Name)
		}
		clear(a[i].Room)
	}
	if r, ok := synapse.Named("rooms"); !ok || !slices.Equal(r.Room, []string{"room_id"}) {
		t.Errorf("rooms after a caller changed its copy: %+v, %t", r, ok)
	}
}

// What is not named has no item and no secret, so that the capture treats it as
// any table of any database; nor does a namesake in another schema.
func TestY1_UnknownTablesAreCapturedInFull(t *testing.T) {
	for _, n := range [][2]string{{"public", "made_by_a_module"}, {"other", "users"}, {"public", ""}} {
		if item, subject, secret := synapse.Profile(n[0], n[1]); item != "" || subject != nil || secret {
			t.Errorf("%v: %q %v %t", n, item, subject, secret)
		}
	}
	item, subject, secret := synapse.Profile("public", "users")
	if item != "m.users" || !slices.Equal(subject, []string{"name"}) || !secret {
		t.Errorf("users: %q %v %t", item, subject, secret)
	}
}

// items are those of the archive's specification.
var items = []string{
	"m.rooms", "m.events", "m.users", "m.e2e.to_device", "m.e2e.keys",
	"im.lifeboat.server", "im.lifeboat.rooms", "im.lifeboat.event_meta", "im.lifeboat.room_state", "im.lifeboat.users", "im.lifeboat.media",
	"im.lifeboat.federation", "im.lifeboat.appservices", "im.lifeboat.moderation", "im.lifeboat.pending", "im.lifeboat.sessions",
}

// worthless are the tables of category Core that no archive holds and that nothing
// gives back: each with why that loses nothing.
var worthless = map[string]string{
	"threepid_guest_access_tokens": "another server cannot honour them, and no archive carries short-lived tokens",
	"instance_map":                 "numbers of processes that an importing server does not have",
}

// A table either has an item, or is computed from tables that do, or is of a kind
// that another server has no use for; and it says which.
func TestY2_LeftOutIsRebuildable(t *testing.T) {
	var held func(name string, depth int) bool
	held = func(name string, depth int) bool {
		tab, ok := synapse.Named(name)
		return ok && depth < 10 && (tab.Item != "" || len(tab.From) > 0 && !slices.ContainsFunc(tab.From, func(f string) bool { return !held(f, depth+1) }))
	}
	used := map[string]bool{}
	for _, tab := range synapse.Tables() {
		switch {
		case tab.Source == "":
			t.Errorf("%s cites no source", tab.Name)
		case tab.Item != "" && !slices.Contains(items, tab.Item):
			t.Errorf("%s feeds %s, which the archive's specification does not know", tab.Name, tab.Item)
		case tab.Item != "" && len(tab.Subject) == 0:
			t.Errorf("%s feeds %s and does not say which element", tab.Name, tab.Item)
		case tab.Item != "":
			continue
		case tab.Reason == "":
			t.Errorf("%s is in no item and says no reason", tab.Name)
		case len(tab.Subject) > 0:
			t.Errorf("%s names an element of no item", tab.Name)
		case len(tab.From) > 0 && !held(tab.Name, 0):
			t.Errorf("%s is computed from %v, which are not all in an archive", tab.Name, tab.From)
		case len(tab.From) > 0:
			continue
		case tab.Category == synapse.Derived:
			t.Errorf("%s is derived and does not say from what", tab.Name)
		case tab.Category == synapse.Core && worthless[tab.Name] == "":
			t.Errorf("%s is core, in no item and computed from nothing: an archive would lose it", tab.Name)
		}
		if len(tab.From) == 0 {
			used[tab.Name] = true
		}
		if as, ok := strings.CutPrefix(tab.Reason, "as "); ok {
			if _, known := synapse.Named(strings.TrimRight(strings.Fields(as)[0], ",;")); !known {
				t.Errorf("%s: %q names no table", tab.Name, tab.Reason)
			}
		}
	}
	for name := range worthless {
		if !used[name] {
			t.Errorf("%s needs no excuse any more", name)
		}
	}
}

// Whatever lets its reader act as somebody is marked, so that it is not compressed
// beside what a stranger chose.
func TestSecretsAreMarked(t *testing.T) {
	for _, name := range []string{
		"access_tokens", "refresh_tokens", "login_tokens", "open_id_tokens", "users", "pushers", "e2e_room_keys", "registration_tokens", "sessions",
		"ui_auth_sessions", "ui_auth_sessions_credentials", "ui_auth_sessions_ips", "threepid_validation_session", "threepid_validation_token",
		"threepid_guest_access_tokens", "user_ips", "dehydrated_devices", "account_validity", "delayed_events",
	} {
		if tab, ok := synapse.Named(name); !ok || !tab.Secret {
			t.Errorf("%s: known %t, secret %t", name, ok, tab.Secret)
		}
	}
}

func TestDetect(t *testing.T) {
	of := func(names ...string) bool {
		return synapse.Detect(func(schema, table string) bool { return schema == "public" && slices.Contains(names, table) })
	}
	if !of("applied_schema_deltas", "schema_version", "event_json", "state_groups_state", "users") {
		t.Error("Synapse is not detected")
	}
	if of("users", "rooms", "events") || of("applied_schema_deltas", "schema_version", "event_json") {
		t.Error("a database with some of the names is taken for Synapse")
	}
}
