package homeserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"strings"
	"time"
)

// step is one thing that a person does, as often as its weight says.
type step struct {
	name   string
	weight int
	do     func(context.Context, *person) error
}

// steps are all of them, in a fixed order.
func steps() []step {
	return []step{
		{"message", 20, inRoom(say)},
		{"edit", 5, onOwn(func(ctx context.Context, p *person, r *place, event string) error {
			_, err := p.Edit(ctx, r.id, event, p.words())
			return err
		})},
		{"reaction", 8, on(func(ctx context.Context, p *person, r *place, event string) error {
			_, err := p.React(ctx, r.id, event, string(rune(0x1F600+p.rng.IntN(50))))
			return err
		})},
		{"thread", 5, on(func(ctx context.Context, p *person, r *place, event string) error {
			_, err := p.Thread(ctx, r.id, event, p.words())
			return err
		})},
		{"redaction", 4, onOwn(func(ctx context.Context, p *person, r *place, event string) error {
			_, err := p.Redact(ctx, r.id, event, "a slip")
			return err
		})},
		{"receipt", 8, on(func(ctx context.Context, p *person, r *place, event string) error {
			return p.Receipt(ctx, r.id, "m.read", event, "")
		})},
		{"read marker", 3, on(func(ctx context.Context, p *person, r *place, event string) error {
			return p.ReadMarkers(ctx, r.id, event)
		})},
		{"relations", 2, on(func(ctx context.Context, p *person, r *place, event string) error {
			_, err := p.Relations(ctx, r.id, event, "")
			return err
		})},
		{"typing", 1, inRoom(func(ctx context.Context, p *person, r *place) error { return p.Typing(ctx, r.id) })},
		{"messages", 2, inRoom(func(ctx context.Context, p *person, r *place) error {
			_, err := p.Messages(ctx, r.id, 50)
			return err
		})},
		{"state", 3, state},
		{"alias", 1, inRoom(func(ctx context.Context, p *person, r *place) error {
			return p.SetAlias(ctx, "#"+p.unique("alias")+":"+p.server.name, r.id)
		})},
		{"invite", 3, inRoom(invite)},
		{"join", 4, join},
		{"leave", 2, inRoom(leave)},
		{"create room", 2, create},
		{"room account data", 2, inRoom(func(ctx context.Context, p *person, r *place) error {
			return p.SetAccountData(ctx, r.id, "im.lifeboat.note", map[string]any{"text": p.words()})
		})},
		{"tag", 2, inRoom(func(ctx context.Context, p *person, r *place) error {
			return p.SetTag(ctx, r.id, fmt.Sprintf("u.tag%d", p.rng.IntN(5)), float64(p.rng.IntN(100))/100)
		})},
		{"key backup", 2, inRoom(backUp)},
		{"sync", 12, catchUp},
		{"account data", 3, func(ctx context.Context, p *person) error {
			return p.SetAccountData(ctx, "", fmt.Sprintf("im.lifeboat.data%d", p.rng.IntN(4)), map[string]any{"text": p.words()})
		}},
		{"profile", 1, profile},
		{"presence", 2, func(ctx context.Context, p *person) error {
			return p.Presence(ctx, []string{"online", "unavailable"}[p.rng.IntN(2)], p.words())
		}},
		{"push rule", 1, func(ctx context.Context, p *person) error { return p.SetPushRule(ctx, p.unique("rule"), "cake") }},
		{"filter", 1, func(ctx context.Context, p *person) error {
			_, err := p.AddFilter(ctx, map[string]any{"room": map[string]any{"timeline": map[string]any{"limit": p.rng.IntN(100)}}})
			return err
		}},
		{"upload", 3, upload},
		{"download", 2, download},
		{"to-device", 8, toDevice},
		{"upload keys", 3, func(ctx context.Context, p *person) error {
			_, err := p.UploadKeys(ctx, 1+p.rng.IntN(5), p.rng.IntN(4) == 0)
			return err
		}},
		{"claim keys", 5, claim},
		{"query keys", 2, func(ctx context.Context, p *person) error {
			_, err := p.QueryKeys(ctx, p.other().UserID)
			return err
		}},
		{"cross-signing", 1, crossSign},
		{"login", 1, login},
	}
}

// inRoom makes a step of an act in some room that the person is in.
func inRoom(do func(context.Context, *person, *place) error) func(context.Context, *person) error {
	return func(ctx context.Context, p *person) error {
		room, leave := p.somewhere()
		if room == nil {
			return errIdle
		}
		defer leave()
		return do(ctx, p, room)
	}
}

// on makes a step of an act on some message.
func on(do func(ctx context.Context, p *person, r *place, event string) error) func(context.Context, *person) error {
	return inRoom(func(ctx context.Context, p *person, r *place) error {
		event := r.some(p.rng, "")
		if event == "" {
			return errIdle
		}
		return do(ctx, p, r, event)
	})
}

// onOwn makes a step of an act on a message of the person's own; where there is
// none it says something first.
func onOwn(do func(ctx context.Context, p *person, r *place, event string) error) func(context.Context, *person) error {
	return inRoom(func(ctx context.Context, p *person, r *place) error {
		event := r.some(p.rng, p.UserID)
		if event == "" {
			if err := say(ctx, p, r); err != nil {
				return err
			}
			event = r.some(p.rng, p.UserID)
		}
		return do(ctx, p, r, event)
	})
}

// words are 1 to 40 words, now and then so many that the row is stored out of line.
func (p *person) words() string {
	n := 1 + p.rng.IntN(40)
	if p.rng.IntN(40) == 0 {
		n = 3000
	}
	words := strings.Fields("the boat is out and the sea was high when nobody had a rope to throw “übermorgen” 明日 🛟")
	var b strings.Builder
	for range n {
		b.WriteString(words[p.rng.IntN(len(words))])
		b.WriteByte(' ')
	}
	return b.String()
}

// unique gives a name that nobody has used in this load.
func (p *person) unique(what string) string {
	p.n++
	return fmt.Sprintf("%s-%s-%d", what, strings.Trim(strings.Split(p.UserID, ":")[0], "@"), p.n)
}

// other gives somebody else.
func (p *person) other() *person {
	all := p.world.users
	for {
		if o := all[p.rng.IntN(len(all))]; o != p || len(all) == 1 {
			return o
		}
	}
}

func say(ctx context.Context, p *person, r *place) error {
	var id string
	var err error
	if r.encrypted {
		id, err = p.Encrypted(ctx, r.id)
	} else {
		id, err = p.Say(ctx, r.id, p.words())
	}
	if err == nil {
		r.remember(id, p.UserID)
	}
	return err
}

// state sets the topic where the person may: a creator.
func state(ctx context.Context, p *person) error {
	r, away := p.find(func(r *place) bool { return r.creator == p.UserID && r.members[p.UserID] })
	if r == nil {
		return errIdle
	}
	defer away()
	_, err := p.SendState(ctx, r.id, "m.room.topic", "", map[string]any{"topic": p.words()})
	return err
}

func invite(ctx context.Context, p *person, r *place) error {
	o := p.other()
	r.mu.Lock()
	in := r.members[o.UserID]
	r.mu.Unlock()
	if in {
		return errIdle
	}
	err := p.Invite(ctx, r.id, o.UserID)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.guests[o.UserID] = true
	}
	return err
}

func join(ctx context.Context, p *person) error {
	room, away := p.find(func(r *place) bool { return !r.members[p.UserID] && (r.public || r.guests[p.UserID]) })
	if room == nil {
		return errIdle
	}
	defer away()
	if _, err := p.Join(ctx, room.id); err != nil {
		return err
	}
	room.mu.Lock()
	defer room.mu.Unlock()
	room.members[p.UserID] = true
	delete(room.guests, p.UserID)
	return nil
}

func leave(ctx context.Context, p *person, r *place) error {
	r.mu.Lock()
	few := len(r.members) < 3
	r.mu.Unlock()
	if few {
		return errIdle
	}
	if err := p.Leave(ctx, r.id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.members, p.UserID)
	return nil
}

func create(ctx context.Context, p *person) error {
	r := Room{Name: p.unique("Room"), Public: p.rng.IntN(3) > 0, Encrypted: p.rng.IntN(4) == 0}
	if p.rng.IntN(2) == 0 {
		r.Alias = strings.ToLower(p.unique("room"))
	}
	return p.world.open(ctx, p, r, p.other())
}

// profile changes the name when the last change has reached all rooms: a second one
// cancels it, and Synapse 1.163.2 then logs an ERROR by itself (KeyError in
// task_scheduler.py, which forgets a cancelled task twice).
func profile(ctx context.Context, p *person) error {
	busy, err := p.world.admin.updating(ctx, p.UserID)
	if err != nil {
		return err
	}
	if busy {
		return errIdle
	}
	return p.SetProfile(ctx, "displayname", p.unique("Name"))
}

func backUp(ctx context.Context, p *person, r *place) error {
	if p.backup == "" || p.rng.IntN(20) == 0 {
		version, err := p.NewKeyBackup(ctx)
		if err != nil {
			return err
		}
		p.backup = version
	}
	return p.BackUpKey(ctx, p.backup, r.id, fmt.Sprintf("session%d", p.rng.IntN(30)), p.words())
}

func catchUp(ctx context.Context, p *person) error {
	p.world.quiet.RLock()
	defer p.world.quiet.RUnlock()
	u, err := p.Sync(ctx, p.since, 50*time.Millisecond)
	if err == nil {
		p.since = u.Next
	}
	return err
}

func upload(ctx context.Context, p *person) error {
	kind, data := "application/octet-stream", make([]byte, 1+p.rng.IntN(50_000))
	if p.rng.IntN(2) == 0 {
		kind, data = "image/png", picture(uint8(p.rng.IntN(256)))
	} else {
		for i := 0; i+8 <= len(data); i += 8 {
			binary.LittleEndian.PutUint64(data[i:], p.rng.Uint64())
		}
	}
	mxc, err := p.Upload(ctx, "file", kind, data)
	if err == nil {
		p.uploads = append(p.uploads, mxc)
	}
	return err
}

// picture is a small PNG, of which the server makes thumbnails.
func picture(shade uint8) []byte {
	img := image.NewGray(image.Rect(0, 0, 120, 80))
	for i := range img.Pix {
		img.Pix[i] = color.Gray{Y: shade + uint8(i)}.Y
	}
	var b bytes.Buffer
	_ = png.Encode(&b, img) // into memory
	return b.Bytes()
}

func download(ctx context.Context, p *person) error {
	if len(p.uploads) == 0 {
		return errIdle
	}
	_, err := p.Download(ctx, p.uploads[p.rng.IntN(len(p.uploads))])
	return err
}

func toDevice(ctx context.Context, p *person) error {
	o := p.other()
	device := o.DeviceID
	if p.rng.IntN(3) == 0 {
		device = "*"
	}
	return p.ToDevice(ctx, "m.room.encrypted", map[string]map[string]any{o.UserID: {device: map[string]any{"ciphertext": p.words()}}})
}

func claim(ctx context.Context, p *person) error {
	o := p.other()
	_, err := p.ClaimKeys(ctx, map[string][]string{o.UserID: {o.DeviceID}})
	return err
}

func crossSign(ctx context.Context, p *person) error {
	if p.signed {
		return errIdle
	}
	p.signed = true
	return p.CrossSign(ctx)
}

// login signs in on a second device, uses it, and mostly signs it out.
func login(ctx context.Context, p *person) error {
	c, err := p.server.Login(ctx, p.UserID, p.Password, "")
	if err != nil {
		return err
	}
	if _, err := c.UploadKeys(ctx, 2, false); err != nil {
		return err
	}
	p.world.quiet.RLock()
	_, err = c.Sync(ctx, "", 0)
	p.world.quiet.RUnlock()
	if err != nil {
		return err
	}
	if p.rng.IntN(3) == 0 {
		return nil
	}
	return c.Logout(ctx)
}
