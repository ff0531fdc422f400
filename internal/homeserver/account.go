package homeserver

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Whoami gives the user id that the server has for the token.
func (c *Client) Whoami(ctx context.Context) (string, error) {
	var a struct {
		ID string `json:"user_id"`
	}
	err := c.Do(ctx, http.MethodGet, clientV3+"/account/whoami", nil, &a)
	return a.ID, err
}

// Logout ends the session: the token and the device are gone.
func (c *Client) Logout(ctx context.Context) error {
	return c.Do(ctx, http.MethodPost, clientV3+"/logout", nil, nil)
}

// Devices gives the ids of the user's devices.
func (c *Client) Devices(ctx context.Context) ([]string, error) {
	var a struct {
		Devices []struct {
			ID string `json:"device_id"`
		} `json:"devices"`
	}
	err := c.Do(ctx, http.MethodGet, clientV3+"/devices", nil, &a)
	var all []string
	for _, d := range a.Devices {
		all = append(all, d.ID)
	}
	return all, err
}

// SetProfile sets a field of the profile: "displayname" or "avatar_url". It changes
// the user's membership in every room.
func (c *Client) SetProfile(ctx context.Context, field, value string) error {
	return c.Do(ctx, http.MethodPut, Path(clientV3+"/profile", c.UserID, field), map[string]any{field: value}, nil)
}

// Profile gives a user's profile.
func (c *Client) Profile(ctx context.Context, user string) (map[string]any, error) {
	var a map[string]any
	err := c.Do(ctx, http.MethodGet, Path(clientV3+"/profile", user), nil, &a)
	return a, err
}

func (c *Client) accountData(room, kind string) string {
	path := Path(clientV3+"/user", c.UserID)
	if room != "" {
		path = Path(path, "rooms", room)
	}
	return Path(path, "account_data", kind)
}

// SetAccountData stores the user's own data, of a room or ("") of the account.
func (c *Client) SetAccountData(ctx context.Context, room, kind string, content any) error {
	return c.Do(ctx, http.MethodPut, c.accountData(room, kind), content, nil)
}

// AccountData gives what SetAccountData stored.
func (c *Client) AccountData(ctx context.Context, room, kind string) (map[string]any, error) {
	var a map[string]any
	err := c.Do(ctx, http.MethodGet, c.accountData(room, kind), nil, &a)
	return a, err
}

// Ignore makes the list of users whose messages the user does not want to see.
func (c *Client) Ignore(ctx context.Context, users ...string) error {
	list := map[string]any{}
	for _, u := range users {
		list[u] = map[string]any{}
	}
	return c.SetAccountData(ctx, "", "m.ignored_user_list", map[string]any{"ignored_users": list})
}

// SetTag puts a tag on a room.
func (c *Client) SetTag(ctx context.Context, room, tag string, order float64) error {
	return c.Do(ctx, http.MethodPut, Path(clientV3+"/user", c.UserID, "rooms", room, "tags", tag), map[string]any{"order": order}, nil)
}

// Tags gives the names of a room's tags.
func (c *Client) Tags(ctx context.Context, room string) ([]string, error) {
	var a struct {
		Tags map[string]any `json:"tags"`
	}
	err := c.Do(ctx, http.MethodGet, Path(clientV3+"/user", c.UserID, "rooms", room, "tags"), nil, &a)
	var all []string
	for t := range a.Tags {
		all = append(all, t)
	}
	return all, err
}

// AddFilter stores a filter for syncs and gives its id.
func (c *Client) AddFilter(ctx context.Context, filter any) (string, error) {
	var a struct {
		ID string `json:"filter_id"`
	}
	err := c.Do(ctx, http.MethodPost, Path(clientV3+"/user", c.UserID, "filter"), filter, &a)
	return a.ID, err
}

// Filter gives a stored filter.
func (c *Client) Filter(ctx context.Context, id string) (map[string]any, error) {
	var a map[string]any
	err := c.Do(ctx, http.MethodGet, Path(clientV3+"/user", c.UserID, "filter", id), nil, &a)
	return a, err
}

// SetPushRule makes a rule that notifies of a word.
func (c *Client) SetPushRule(ctx context.Context, id, word string) error {
	body := map[string]any{"pattern": word, "actions": []any{"notify"}}
	return c.Do(ctx, http.MethodPut, Path(clientV3+"/pushrules/global/content", id), body, nil)
}

// PushRules gives all rules as the server sent them.
func (c *Client) PushRules(ctx context.Context) (map[string]any, error) {
	var a map[string]any
	err := c.Do(ctx, http.MethodGet, clientV3+"/pushrules/", nil, &a)
	return a, err
}

// SetPusher makes an HTTP pusher. Nobody listens at url, unless the caller does.
func (c *Client) SetPusher(ctx context.Context, key, url string) error {
	return c.Do(ctx, http.MethodPost, clientV3+"/pushers/set", map[string]any{
		"kind": "http", "app_id": "im.lifeboat.test", "app_display_name": "test", "device_display_name": "test",
		"pushkey": key, "lang": "en", "data": map[string]any{"url": url},
	}, nil)
}

// Pushers gives the keys of the user's pushers.
func (c *Client) Pushers(ctx context.Context) ([]string, error) {
	var a struct {
		Pushers []struct {
			Key string `json:"pushkey"`
		} `json:"pushers"`
	}
	err := c.Do(ctx, http.MethodGet, clientV3+"/pushers", nil, &a)
	var all []string
	for _, p := range a.Pushers {
		all = append(all, p.Key)
	}
	return all, err
}

// Presence sets "online", "unavailable" or "offline", with a word of the user's.
func (c *Client) Presence(ctx context.Context, state, message string) error {
	return c.Do(ctx, http.MethodPut, Path(clientV3+"/presence", c.UserID, "status"), map[string]any{"presence": state, "status_msg": message}, nil)
}

// Upload stores a file and gives its mxc:// address.
func (c *Client) Upload(ctx context.Context, name, kind string, data []byte) (string, error) {
	var a struct {
		URI string `json:"content_uri"`
	}
	path := "/_matrix/media/v3/upload?filename=" + url.QueryEscape(name)
	err := c.Do(ctx, http.MethodPost, path, Raw{Type: kind, Data: data}, &a)
	return a.URI, err
}

// Download gives the bytes of an mxc:// address.
func (c *Client) Download(ctx context.Context, mxc string) ([]byte, error) {
	server, id, err := media(mxc)
	if err != nil {
		return nil, err
	}
	var data []byte
	err = c.Do(ctx, http.MethodGet, Path(clientV1+"/media/download", server, id), nil, &data)
	return data, err
}

// Thumbnail gives the picture of an mxc:// address in at most size by size pixels.
func (c *Client) Thumbnail(ctx context.Context, mxc string, size int) ([]byte, error) {
	server, id, err := media(mxc)
	if err != nil {
		return nil, err
	}
	n := strconv.Itoa(size)
	var data []byte
	err = c.Do(ctx, http.MethodGet, Path(clientV1+"/media/thumbnail", server, id)+"?method=scale&width="+n+"&height="+n, nil, &data)
	return data, err
}

func media(mxc string) (server, id string, err error) {
	rest, ok := strings.CutPrefix(mxc, "mxc://")
	server, id, both := strings.Cut(rest, "/")
	if !ok || !both {
		return "", "", fmt.Errorf("%q is no mxc:// address", mxc)
	}
	return server, id, nil
}
