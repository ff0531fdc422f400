package homeserver

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Join joins a room by id or alias and gives its id. via names servers that know
// it; none is needed for a room of the client's own server.
func (c *Client) Join(ctx context.Context, room string, via ...string) (string, error) {
	path := Path(clientV3+"/join", room)
	if len(via) > 0 {
		// server_name is the older word for via.
		path += "?" + url.Values{"via": via, "server_name": via}.Encode()
	}
	var a struct {
		ID string `json:"room_id"`
	}
	err := c.Do(ctx, http.MethodPost, path, nil, &a)
	return a.ID, err
}

// Invite invites a user.
func (c *Client) Invite(ctx context.Context, room, user string) error {
	return c.Do(ctx, http.MethodPost, Path(clientV3+"/rooms", room, "invite"), map[string]any{"user_id": user}, nil)
}

// Leave leaves a room, or refuses an invitation.
func (c *Client) Leave(ctx context.Context, room string) error {
	return c.Do(ctx, http.MethodPost, Path(clientV3+"/rooms", room, "leave"), nil, nil)
}

// Forget removes a room that was left from the user's view.
func (c *Client) Forget(ctx context.Context, room string) error {
	return c.Do(ctx, http.MethodPost, Path(clientV3+"/rooms", room, "forget"), nil, nil)
}

// Ban bans a user from a room.
func (c *Client) Ban(ctx context.Context, room, user string) error {
	return c.Do(ctx, http.MethodPost, Path(clientV3+"/rooms", room, "ban"), map[string]any{"user_id": user}, nil)
}

// Edit replaces the text of an own message.
func (c *Client) Edit(ctx context.Context, room, event, text string) (string, error) {
	return c.Send(ctx, room, "m.room.message", map[string]any{
		"msgtype": "m.text", "body": "* " + text, "m.new_content": map[string]any{"msgtype": "m.text", "body": text},
		"m.relates_to": map[string]any{"rel_type": "m.replace", "event_id": event},
	})
}

// React adds a reaction; the same one twice is refused.
func (c *Client) React(ctx context.Context, room, event, key string) (string, error) {
	return c.Send(ctx, room, "m.reaction", map[string]any{
		"m.relates_to": map[string]any{"rel_type": "m.annotation", "event_id": event, "key": key},
	})
}

// Thread answers in the thread that begins with an event.
func (c *Client) Thread(ctx context.Context, room, root, text string) (string, error) {
	return c.Send(ctx, room, "m.room.message", map[string]any{
		"msgtype": "m.text", "body": text, "m.relates_to": map[string]any{"rel_type": "m.thread", "event_id": root},
	})
}

// Redact takes the content of an event away; it gives the id of the redaction.
func (c *Client) Redact(ctx context.Context, room, event, reason string) (string, error) {
	var a struct {
		ID string `json:"event_id"`
	}
	err := c.Do(ctx, http.MethodPut, Path(clientV3+"/rooms", room, "redact", event, c.Txn()), map[string]any{"reason": reason}, &a)
	return a.ID, err
}

// SendState sets a piece of the room's state.
func (c *Client) SendState(ctx context.Context, room, kind, key string, content any) (string, error) {
	var a struct {
		ID string `json:"event_id"`
	}
	err := c.Do(ctx, http.MethodPut, Path(clientV3+"/rooms", room, "state", kind, key), content, &a)
	return a.ID, err
}

// State gives the whole state of a room.
func (c *Client) State(ctx context.Context, room string) ([]Event, error) {
	var a []Event
	err := c.Do(ctx, http.MethodGet, Path(clientV3+"/rooms", room, "state"), nil, &a)
	return a, err
}

// Event gives one event.
func (c *Client) Event(ctx context.Context, room, event string) (Event, error) {
	var a Event
	err := c.Do(ctx, http.MethodGet, Path(clientV3+"/rooms", room, "event", event), nil, &a)
	return a, err
}

// Context gives an event with what came before and after it: the body as the
// server sent it.
func (c *Client) Context(ctx context.Context, room, event string) (map[string]any, error) {
	var a map[string]any
	err := c.Do(ctx, http.MethodGet, Path(clientV3+"/rooms", room, "context", event)+"?limit=10", nil, &a)
	return a, err
}

// Relations gives the events that relate to one, of a type of relation
// ("m.annotation", "m.replace", "m.thread") or of all ("").
func (c *Client) Relations(ctx context.Context, room, event, relation string) ([]Event, error) {
	path := Path(clientV1+"/rooms", room, "relations", event)
	if relation != "" {
		path = Path(path, relation)
	}
	var a struct{ Chunk []Event }
	err := c.Do(ctx, http.MethodGet, path+"?limit=100", nil, &a)
	return a.Chunk, err
}

// Threads gives the roots of a room's threads.
func (c *Client) Threads(ctx context.Context, room string) ([]Event, error) {
	var a struct{ Chunk []Event }
	err := c.Do(ctx, http.MethodGet, Path(clientV1+"/rooms", room, "threads"), nil, &a)
	return a.Chunk, err
}

// Members gives the user ids of those who are in a room.
func (c *Client) Members(ctx context.Context, room string) ([]string, error) {
	var a struct {
		Joined map[string]any `json:"joined"`
	}
	err := c.Do(ctx, http.MethodGet, Path(clientV3+"/rooms", room, "joined_members"), nil, &a)
	var all []string
	for id := range a.Joined {
		all = append(all, id)
	}
	return all, err
}

// JoinedRooms gives the ids of the rooms that the user is in.
func (c *Client) JoinedRooms(ctx context.Context) ([]string, error) {
	var a struct {
		Rooms []string `json:"joined_rooms"`
	}
	err := c.Do(ctx, http.MethodGet, clientV3+"/joined_rooms", nil, &a)
	return a.Rooms, err
}

// SetAlias gives a room another alias, "#name:server".
func (c *Client) SetAlias(ctx context.Context, alias, room string) error {
	return c.Do(ctx, http.MethodPut, Path(clientV3+"/directory/room", alias), map[string]any{"room_id": room}, nil)
}

// Alias gives the room of an alias.
func (c *Client) Alias(ctx context.Context, alias string) (string, error) {
	var a struct {
		ID string `json:"room_id"`
	}
	err := c.Do(ctx, http.MethodGet, Path(clientV3+"/directory/room", alias), nil, &a)
	return a.ID, err
}

// Receipt says that the user has read up to an event: kind is "m.read" or
// "m.read.private", thread "" for none, "main" or the root of a thread.
func (c *Client) Receipt(ctx context.Context, room, kind, event, thread string) error {
	body := map[string]any{}
	if thread != "" {
		body["thread_id"] = thread
	}
	return c.Do(ctx, http.MethodPost, Path(clientV3+"/rooms", room, "receipt", kind, event), body, nil)
}

// ReadMarkers moves the user's line between old and new, and the receipt with it.
func (c *Client) ReadMarkers(ctx context.Context, room, event string) error {
	return c.Do(ctx, http.MethodPost, Path(clientV3+"/rooms", room, "read_markers"), map[string]any{"m.fully_read": event, "m.read": event}, nil)
}

// Typing says that the user types, for 5 seconds.
func (c *Client) Typing(ctx context.Context, room string) error {
	return c.Do(ctx, http.MethodPut, Path(clientV3+"/rooms", room, "typing", c.UserID), map[string]any{"typing": true, "timeout": 5000}, nil)
}

// Search gives how many messages hold a word.
func (c *Client) Search(ctx context.Context, word string) (int, error) {
	var a struct {
		Categories struct {
			Events struct {
				Count int `json:"count"`
			} `json:"room_events"`
		} `json:"search_categories"`
	}
	body := map[string]any{"search_categories": map[string]any{"room_events": map[string]any{"search_term": word}}}
	err := c.Do(ctx, http.MethodPost, clientV3+"/search", body, &a)
	return a.Categories.Events.Count, err
}

// PurgeHistory removes what came before an event of a room, as an admin, and waits
// until the server says that it is done.
func (c *Client) PurgeHistory(ctx context.Context, room, before string) error {
	var a struct {
		ID string `json:"purge_id"`
	}
	body := map[string]any{"delete_local_events": true}
	if err := c.Do(ctx, http.MethodPost, Path("/_synapse/admin/v1/purge_history", room, before), body, &a); err != nil {
		return err
	}
	return c.job(ctx, Path("/_synapse/admin/v1/purge_history_status", a.ID))
}

// Settled waits, as an admin, until nothing is left of the work in the background
// that a new or upgraded database begins with. Within it Synapse 1.163.2 by itself
// fails to purge a room (sliding_sync_joined_rooms_to_recalculate still refers to
// it), and it makes and drops tables, indexes and constraints.
func (c *Client) Settled(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for idle := 0; idle < 8; { // between two pieces of work there seems to be none
		var a struct {
			Enabled bool           `json:"enabled"`
			Current map[string]any `json:"current_updates"`
		}
		if err := c.Do(ctx, http.MethodGet, "/_synapse/admin/v1/background_updates/status", nil, &a); err != nil {
			return err
		}
		if idle++; !a.Enabled || len(a.Current) > 0 {
			idle = 0
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the work in the background (%v): %w", a.Current, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// updating reports, as an admin, whether the change of a profile is still on its
// way into the user's rooms.
func (c *Client) updating(ctx context.Context, user string) (bool, error) {
	var a struct {
		Tasks []struct {
			Status string `json:"status"`
		} `json:"scheduled_tasks"`
	}
	q := url.Values{"action_name": {"update_join_states"}, "resource_id": {user}}
	err := c.Do(ctx, http.MethodGet, "/_synapse/admin/v1/scheduled_tasks?"+q.Encode(), nil, &a)
	for _, t := range a.Tasks {
		if t.Status == "active" || t.Status == "scheduled" {
			return true, err
		}
	}
	return false, err
}

// RegenerateDirectory has the user directory built anew, as an admin, in the
// background: Synapse empties its tables and makes _temp_populate_user_directory_…
// for the time (storage/databases/main/user_directory.py). It is refused while that
// goes on.
func (c *Client) RegenerateDirectory(ctx context.Context) error {
	return c.Do(ctx, http.MethodPost, "/_synapse/admin/v1/background_updates/start_job", map[string]any{"job_name": "regenerate_directory"}, nil)
}

// RoomsOnServer gives the ids of the rooms that the database knows, as an admin.
func (c *Client) RoomsOnServer(ctx context.Context) ([]string, error) {
	var all []string
	for from := 0; ; {
		var a struct {
			Rooms []struct {
				ID string `json:"room_id"`
			} `json:"rooms"`
			Next *int `json:"next_batch"`
		}
		if err := c.Do(ctx, http.MethodGet, "/_synapse/admin/v1/rooms?limit=500&from="+strconv.Itoa(from), nil, &a); err != nil {
			return nil, err
		}
		for _, r := range a.Rooms {
			all = append(all, r.ID)
		}
		if a.Next == nil {
			return all, nil
		}
		from = *a.Next
	}
}
