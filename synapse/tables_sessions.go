package synapse

// sessionsTables: tokens and half-done log-ins: whoever reads them is somebody else.
func sessionsTables() []Table {
	return []Table{
		{
			Name: "access_tokens", Category: Core, Item: "im.lifeboat.sessions", Subject: []string{"user_id", "device_id"}, Secret: true,
			User:   []string{"user_id", "puppets_user_id"},
			Source: "databases/main/registration.py",
		},
		{
			Name: "refresh_tokens", Category: Core, Item: "im.lifeboat.sessions", Subject: []string{"user_id", "device_id"}, Secret: true,
			User:   []string{"user_id"},
			Source: "databases/main/registration.py",
		},
		{
			Name: "registration_tokens", Category: Core, Item: "im.lifeboat.moderation", Subject: []string{"token"}, Secret: true,
			Source: "databases/main/registration.py",
		},
		{
			Name: "login_tokens", Category: Ephemeral, Secret: true,
			User:   []string{"user_id"},
			Reason: "valid for minutes", Source: "databases/main/registration.py",
		},
		{
			Name: "open_id_tokens", Category: Ephemeral, Secret: true,
			User:   []string{"user_id"},
			Reason: "valid for an hour", Source: "databases/main/openid.py",
		},
		{
			Name: "sessions", Category: Ephemeral, Secret: true,
			Reason: "short-lived state of requests that continue, under an unguessable id", Source: "databases/main/session.py",
		},
		{
			Name: "ui_auth_sessions", Category: Ephemeral, Secret: true,
			Reason: "half-done confirmations; may hold a password hash of a registration", Source: "databases/main/ui_auth.py",
		},
		{
			Name: "ui_auth_sessions_credentials", Category: Ephemeral, Secret: true,
			Reason: "as ui_auth_sessions", Source: "databases/main/ui_auth.py",
		},
		{
			Name: "ui_auth_sessions_ips", Category: Ephemeral, Secret: true,
			Reason: "as ui_auth_sessions", Source: "databases/main/ui_auth.py",
		},
		{
			Name: "threepid_validation_session", Category: Ephemeral, Secret: true,
			Reason: "half-done checks of an address; the user asks again", Source: "databases/main/registration.py",
		},
		{
			Name: "threepid_validation_token", Category: Ephemeral, Secret: true,
			Reason: "as threepid_validation_session", Source: "databases/main/registration.py",
		},
		{
			Name: "threepid_guest_access_tokens", Category: Core, Secret: true,
			User:   []string{"first_inviter"},
			Reason: "token of a guest invited by an address that nobody has claimed yet; another server cannot honour it", Source: "schema/main/delta/30/threepid_guest_access_tokens.sql",
		},
	}
}
