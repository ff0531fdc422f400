package synapse

// usersTables: accounts and what belongs to them.
func usersTables() []Table {
	return []Table{
		{
			Name: "users", Category: Core, Item: "m.users", Subject: []string{"name"}, Secret: true,
			User:   []string{"name"},
			Source: "databases/main/registration.py",
		},
		{
			Name: "profiles", Category: Core, Item: "im.lifeboat.users", Subject: []string{"full_user_id"},
			User:   []string{"user_id", "full_user_id"},
			Source: "databases/main/profile.py",
		},
		{
			Name: "profile_updates", Category: Ephemeral,
			User:   []string{"user_id"},
			Reason: "tells this server's clients that a profile changed", Source: "databases/main/profile.py",
		},
		{
			Name: "profile_updates_per_user", Category: Ephemeral,
			User:   []string{"user_id"},
			Reason: "as profile_updates", Source: "databases/main/profile.py",
		},
		{
			Name: "account_data", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_id", "account_data_type"},
			User:   []string{"user_id"},
			Source: "databases/main/account_data.py",
		},
		{
			Name: "room_account_data", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_id", "room_id", "account_data_type"},
			Room: []string{"room_id"}, User: []string{"user_id"},
			Source: "databases/main/account_data.py",
		},
		{
			Name: "room_tags", Category: Core, Item: "m.users", Subject: []string{"user_id", "room_id", "tag"},
			Room: []string{"room_id"}, User: []string{"user_id"},
			Source: "databases/main/tags.py",
		},
		{
			Name: "room_tags_revisions", Category: Core,
			Room: []string{"room_id"}, User: []string{"user_id"},
			From: []string{"room_tags"}, Reason: "place of the newest change of a user's tags in this server's stream", Source: "databases/main/tags.py",
		},
		{
			Name: "ignored_users", Category: Core, Item: "im.lifeboat.users", Subject: []string{"ignorer_user_id"},
			User:   []string{"ignorer_user_id", "ignored_user_id"},
			Source: "databases/main/account_data.py",
		},
		{
			Name: "account_validity", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_id"}, Secret: true,
			User:   []string{"user_id"},
			Source: "databases/main/registration.py",
		},
		{
			Name: "erased_users", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_id"},
			User:   []string{"user_id"},
			Source: "databases/main/user_erasure_store.py",
		},
		{
			Name: "users_pending_deactivation", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_id"},
			User:   []string{"user_id"},
			Source: "databases/main/registration.py",
		},
		{
			Name: "user_threepids", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_id", "medium", "address"},
			User:   []string{"user_id"},
			Source: "databases/main/registration.py",
		},
		{
			Name: "user_threepid_id_server", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_id", "medium", "address"},
			User:   []string{"user_id"},
			Source: "databases/main/registration.py",
		},
		{
			Name: "user_external_ids", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_id", "auth_provider", "external_id"},
			User:   []string{"user_id"},
			Source: "databases/main/registration.py",
		},
		{
			Name: "user_filters", Category: Core, Item: "im.lifeboat.users", Subject: []string{"full_user_id", "filter_id"},
			User:   []string{"user_id", "full_user_id"},
			Source: "databases/main/filtering.py",
		},
		{
			Name: "ratelimit_override", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_id"},
			User:   []string{"user_id"},
			Source: "databases/main/room.py",
		},
		{
			Name: "per_user_experimental_features", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_id", "feature"},
			User:   []string{"user_id"},
			Source: "databases/main/experimental_features.py",
		},
		{
			Name: "thread_subscriptions", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_id", "room_id", "event_id"},
			Room: []string{"room_id"}, User: []string{"user_id"}, Event: []string{"event_id"},
			Source: "databases/main/thread_subscriptions.py",
		},
		{
			Name: "monthly_active_users", Category: Ephemeral,
			User:   []string{"user_id"},
			Reason: "who was seen this month, only counted where the number is limited; refills", Source: "databases/main/monthly_active_users.py",
		},
		{
			Name: "user_daily_visits", Category: Ephemeral,
			User:   []string{"user_id"},
			Reason: "statistics of visits, and private: who was here on which day", Source: "databases/main/metrics.py",
		},
		{
			Name: "user_ips", Category: Ephemeral, Secret: true,
			User:   []string{"user_id"},
			Reason: "addresses of the last 28 days, beside the access token that used them; private, refills", Source: "databases/main/client_ips.py",
		},
	}
}
