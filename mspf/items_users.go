package mspf

// UserDetails is one entry of im.lifeboat.users: what m.users has no room for.
type UserDetails struct {
	ID          string              `json:"-"`
	Profile     map[string]any      `json:"profile,omitempty"` // displayname, avatar_url and custom fields
	AccountData AccountData         `json:"account_data"`
	PushRules   []any               `json:"push_rules,omitempty"`   // the user's own rules, as the client-server API shows them, with priority
	PushEnabled map[string]bool     `json:"push_enabled,omitempty"` // rule id → enabled, where it was changed
	Pushers     []any               `json:"pushers,omitempty"`
	Receipts    []Receipt           `json:"receipts,omitempty"`
	Filters     map[string]any      `json:"filters,omitempty"` // filter id → definition
	Threads     []any               `json:"thread_subscriptions,omitempty"`
	ThreePIDs   []ThreePID          `json:"threepids,omitempty"`
	ExternalIDs []ExternalID        `json:"external_ids,omitempty"`
	Status      UserStatus          `json:"status"`
	Type        string              `json:"user_type,omitempty"`
	AppService  string              `json:"appservice_id,omitempty"`
	Consent     *Consent            `json:"consent,omitempty"`
	ExpiresTS   int64               `json:"expires_ts,omitempty"` // milliseconds since 1970
	RateLimit   *RateLimit          `json:"ratelimit,omitempty"`
	LastSeen    map[string]LastSeen `json:"last_seen,omitempty"` // device → when and whence
	Dehydrated  any                 `json:"dehydrated_device,omitempty"`
	Password    *Password           `json:"password,omitempty"`
}

// AccountData is a user's, of the account and by room: type → content.
type AccountData struct {
	Global map[string]any            `json:"global,omitempty"`
	Rooms  map[string]map[string]any `json:"rooms,omitempty"`
}

// Receipt is a read receipt of the user.
type Receipt struct {
	Room   string `json:"room_id"`
	Type   string `json:"type"` // m.read, m.read.private
	Event  string `json:"event_id"`
	Thread string `json:"thread_id,omitempty"`
	Data   any    `json:"data,omitempty"`
}

// ThreePID is a third-party identifier; times in milliseconds since 1970.
type ThreePID struct {
	Medium      string   `json:"medium"`
	Address     string   `json:"address"`
	ValidatedTS int64    `json:"validated_ts"`
	AddedTS     int64    `json:"added_ts"`
	Servers     []string `json:"id_servers,omitempty"`
}

// ExternalID is the user's id at an identity provider.
type ExternalID struct {
	Provider string `json:"provider"`
	ID       string `json:"id"`
}

// UserStatus is what an administrator decided of an account.
type UserStatus struct {
	Admin        bool `json:"admin,omitempty"`
	Deactivated  bool `json:"deactivated,omitempty"`
	Locked       bool `json:"locked,omitempty"`
	Suspended    bool `json:"suspended,omitempty"`
	ShadowBanned bool `json:"shadow_banned,omitempty"`
	Erased       bool `json:"erased,omitempty"`
	Approved     bool `json:"approved,omitempty"`
	Guest        bool `json:"guest,omitempty"`
}

// Consent is to the server's privacy policy; TS in milliseconds since 1970.
type Consent struct {
	Version    string `json:"version,omitempty"`
	TS         int64  `json:"ts,omitempty"`
	NoticeSent string `json:"notice_sent,omitempty"`
}

// RateLimit overrides the server's; both 0 means none.
type RateLimit struct {
	PerSecond int64 `json:"messages_per_second"`
	Burst     int64 `json:"burst_count"`
}

// LastSeen of a device; TS in milliseconds since 1970.
type LastSeen struct {
	TS        int64  `json:"ts,omitempty"`
	IP        string `json:"ip,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
}

// Password says how the hash of m.users is to be checked. The pepper is never in the
// archive.
type Password struct {
	Scheme        string `json:"scheme"`                  // "bcrypt"
	Peppered      bool   `json:"peppered"`                // a pepper follows the password before it is hashed
	Normalization string `json:"normalization,omitempty"` // "NFKC"
	MaxBytes      int64  `json:"max_bytes,omitempty"`     // what the scheme looks at: bcrypt 72
}
