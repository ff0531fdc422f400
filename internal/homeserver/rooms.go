package homeserver

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	clientV1 = "/_matrix/client/v1"
	clientV3 = "/_matrix/client/v3"
)

// Event is what a client is shown of one.
type Event struct {
	Type     string         `json:"type"`
	EventID  string         `json:"event_id"`
	RoomID   string         `json:"room_id"`
	Sender   string         `json:"sender"`
	StateKey *string        `json:"state_key"`
	Content  map[string]any `json:"content"`
	Unsigned map[string]any `json:"unsigned"`
	Time     int64          `json:"origin_server_ts"` // milliseconds since 1970
}

// Body is the text of a message, "" when there is none.
func (e Event) Body() string {
	s, _ := e.Content["body"].(string)
	return s
}

// Room says what room is created.
type Room struct {
	Name      string
	Alias     string   // localpart; "" for none
	Invite    []string // user ids
	Public    bool     // anybody may join
	Encrypted bool
	Direct    bool
	Version   string // "" is the server's default
}

// CreateRoom makes a room and gives its id.
func (c *Client) CreateRoom(ctx context.Context, r Room) (string, error) {
	body := map[string]any{"preset": "private_chat", "is_direct": r.Direct}
	if r.Public {
		body["preset"], body["visibility"] = "public_chat", "public"
	}
	for k, v := range map[string]string{"name": r.Name, "room_alias_name": r.Alias, "room_version": r.Version} {
		if v != "" {
			body[k] = v
		}
	}
	if len(r.Invite) > 0 {
		body["invite"] = r.Invite
	}
	if r.Encrypted {
		body["initial_state"] = []any{map[string]any{
			"type": "m.room.encryption", "state_key": "", "content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2"},
		}}
	}
	var a struct {
		ID string `json:"room_id"`
	}
	err := c.Do(ctx, http.MethodPost, clientV3+"/createRoom", body, &a)
	return a.ID, err
}

// Send sends an event of any type and gives its id.
func (c *Client) Send(ctx context.Context, room, kind string, content any) (string, error) {
	var a struct {
		ID string `json:"event_id"`
	}
	err := c.Do(ctx, http.MethodPut, Path(clientV3+"/rooms", room, "send", kind, c.Txn()), content, &a)
	return a.ID, err
}

// Say sends a text message and gives its event id.
func (c *Client) Say(ctx context.Context, room, text string) (string, error) {
	return c.Send(ctx, room, "m.room.message", map[string]any{"msgtype": "m.text", "body": text})
}

// Timeline is a run of events of one room in a sync.
type Timeline struct {
	Timeline struct {
		Events    []Event `json:"events"`
		Limited   bool    `json:"limited"`
		PrevBatch string  `json:"prev_batch"`
	} `json:"timeline"`
	State       struct{ Events []Event } `json:"state"`
	Ephemeral   struct{ Events []Event } `json:"ephemeral"`
	AccountData struct{ Events []Event } `json:"account_data"`
}

// Update is what a sync brings.
type Update struct {
	Next  string `json:"next_batch"`
	Rooms struct {
		Join   map[string]Timeline       `json:"join"`
		Invite map[string]map[string]any `json:"invite"`
		Leave  map[string]Timeline       `json:"leave"`
	} `json:"rooms"`
	ToDevice    struct{ Events []Event } `json:"to_device"`
	AccountData struct{ Events []Event } `json:"account_data"`
	DeviceLists struct {
		Changed []string `json:"changed"`
		Left    []string `json:"left"`
	} `json:"device_lists"`
	OneTimeKeys  map[string]int `json:"device_one_time_keys_count"`
	FallbackKeys []string       `json:"device_unused_fallback_key_types"`
}

// Sync asks for what is new since a token ("": everything) and waits up to the time
// for something to be there.
func (c *Client) Sync(ctx context.Context, since string, wait time.Duration) (*Update, error) {
	q := url.Values{"timeout": {strconv.FormatInt(wait.Milliseconds(), 10)}}
	if since != "" {
		q.Set("since", since)
	}
	u := &Update{}
	return u, c.Do(ctx, http.MethodGet, clientV3+"/sync?"+q.Encode(), nil, u)
}

// Messages gives the newest events of a room, newest first, limit at most, reading
// on from page to page.
func (c *Client) Messages(ctx context.Context, room string, limit int) ([]Event, error) {
	var all []Event
	from := ""
	for len(all) < limit {
		q := url.Values{"dir": {"b"}, "limit": {strconv.Itoa(min(limit-len(all), 500))}}
		if from != "" {
			q.Set("from", from)
		}
		var page struct {
			Chunk []Event `json:"chunk"`
			End   string  `json:"end"`
		}
		if err := c.Do(ctx, http.MethodGet, Path(clientV3+"/rooms", room, "messages")+"?"+q.Encode(), nil, &page); err != nil {
			return all, err
		}
		all = append(all, page.Chunk...)
		if from = page.End; from == "" || len(page.Chunk) == 0 {
			break
		}
	}
	return all, nil
}

// DeleteRoom removes a room as an admin, with purge from the database too, and
// waits until the server says that the work is done.
func (c *Client) DeleteRoom(ctx context.Context, room string, purge bool) error {
	id, err := c.BeginDeleteRoom(ctx, room, purge)
	if err != nil {
		return err
	}
	return c.job(ctx, "/_synapse/admin/v2/rooms/delete_status/"+url.PathEscape(id))
}

// BeginDeleteRoom is DeleteRoom without the wait; it gives the id of the work.
func (c *Client) BeginDeleteRoom(ctx context.Context, room string, purge bool) (string, error) {
	var a struct {
		ID string `json:"delete_id"`
	}
	body := map[string]any{"block": false, "purge": purge, "force_purge": purge}
	err := c.Do(ctx, http.MethodDelete, Path("/_synapse/admin/v2/rooms", room), body, &a)
	return a.ID, err
}

// job waits for a work of the admin API to be complete.
func (c *Client) job(ctx context.Context, path string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var a struct {
			Status string `json:"status"`
			Error  string `json:"error"`
		}
		if err := c.Do(ctx, http.MethodGet, path, nil, &a); err != nil {
			return err
		}
		switch a.Status {
		case "complete":
			return nil
		case "failed":
			return fmt.Errorf("%s: %s", path, a.Error)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is %q: %w", path, a.Status, ctx.Err())
		case <-tick.C:
		}
	}
}
