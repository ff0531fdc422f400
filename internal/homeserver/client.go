package homeserver

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
)

// Client is one signed-in device of one user. It may be used by several goroutines.
type Client struct {
	UserID   string
	DeviceID string
	Token    string
	Password string
	server   *Server
	txn      *atomic.Int64 // shared by all copies: a transaction id is never used twice
	keys     *keyring      // shared too
}

// Error is an answer that is not 2xx.
type Error struct {
	Status  int
	Code    string // Matrix' errcode, "" when the body has none
	Message string
	Request string // method and path
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %d %s %s", e.Request, e.Status, e.Code, e.Message)
}

// Code gives the errcode of an answer that was not 2xx, "" for anything else.
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Raw is a body that is sent as it is.
type Raw struct {
	Type string // Content-Type
	Data []byte
}

// Server is the one that the client talks to.
func (c *Client) Server() *Server { return c.server }

// On gives the same device talking to another server, for instance the restored
// one: token and the count of transaction ids go on.
func (c *Client) On(s *Server) *Client {
	d := *c
	d.server = s
	return &d
}

// Do sends one request. path begins with a slash and is escaped by the caller
// (see [Path]); body is nil, a [Raw] or what JSON can carry; out is nil, a *[]byte
// for the bytes or what JSON is read into. An answer that is not 2xx is an *[Error];
// one of 500 and above is remembered by the server (see [Server.Faults]).
func (c *Client) Do(ctx context.Context, method, path string, body, out any) error {
	return c.server.do(ctx, method, path, c.Token, body, out)
}

// Path joins escaped parts: Path("/rooms", id, "send") is /rooms/ID/send.
func Path(prefix string, parts ...string) string {
	for _, p := range parts {
		prefix += "/" + url.PathEscape(p)
	}
	return prefix
}

func (s *Server) do(ctx context.Context, method, path, token string, body, out any) error {
	var payload io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
		if method != http.MethodGet && method != http.MethodDelete {
			payload = bytes.NewReader([]byte("{}"))
		}
	case Raw:
		kind, payload = b.Type, bytes.NewReader(b.Data)
	default:
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.route(method, path)+path, payload)
	if err != nil {
		return err
	}
	if payload != nil {
		req.Header.Set("Content-Type", kind)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	r, err := s.http.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	if r.StatusCode/100 != 2 {
		return s.refused(r.StatusCode, method+" "+path, text)
	}
	switch o := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*o = text
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// refused makes an error of an answer.
func (s *Server) refused(status int, request string, text []byte) error {
	e := &Error{Status: status, Request: request}
	var m struct {
		Code    string `json:"errcode"`
		Message string `json:"error"`
	}
	if json.Unmarshal(text, &m) == nil && m.Code != "" {
		e.Code, e.Message = m.Code, m.Message
	} else {
		e.Message = string(text[:min(len(text), 300)])
	}
	if status >= 500 {
		s.fault(e.Error())
	}
	return e
}

// Register makes a user by the shared secret, as an admin does, and signs it in.
func (s *Server) Register(ctx context.Context, name, password string, admin bool) (*Client, error) {
	const path = "/_synapse/admin/v1/register"
	var nonce struct{ Nonce string }
	if err := s.do(ctx, http.MethodGet, path, "", nil, &nonce); err != nil {
		return nil, err
	}
	role := "notadmin"
	if admin {
		role = "admin"
	}
	mac := hmac.New(sha1.New, []byte(s.secret)) // the protocol's choice
	mac.Write([]byte(nonce.Nonce + "\x00" + name + "\x00" + password + "\x00" + role))
	body := map[string]any{
		"nonce": nonce.Nonce, "username": name, "password": password, "admin": admin, "mac": hex.EncodeToString(mac.Sum(nil)),
	}
	return s.signedIn(ctx, path, password, body)
}

// Login signs a user in by password. device may be "" for a new one.
func (s *Server) Login(ctx context.Context, name, password, device string) (*Client, error) {
	body := map[string]any{
		"type": "m.login.password", "password": password, "identifier": map[string]any{"type": "m.id.user", "user": name},
	}
	if device != "" {
		body["device_id"] = device
	}
	return s.signedIn(ctx, "/_matrix/client/v3/login", password, body)
}

func (s *Server) signedIn(ctx context.Context, path, password string, body any) (*Client, error) {
	var a struct {
		UserID   string `json:"user_id"`
		DeviceID string `json:"device_id"`
		Token    string `json:"access_token"`
	}
	if err := s.do(ctx, http.MethodPost, path, "", body, &a); err != nil {
		return nil, err
	}
	return &Client{UserID: a.UserID, DeviceID: a.DeviceID, Token: a.Token, Password: password, server: s, txn: new(atomic.Int64), keys: &keyring{}}, nil
}

// Txn gives a transaction id that this device has not used.
func (c *Client) Txn() string { return "t" + strconv.FormatInt(c.txn.Add(1), 10) }
