package homeserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Load is a mixed load by many clients: what people do with a homeserver, from
// messages to key claims, while an admin purges history and deletes rooms.
type Load struct {
	// Seed makes each user's choices; how they interleave is the machine's affair.
	Seed uint64
	// Users at work; default 8. They are named PREFIX0, PREFIX1, …
	Users  int
	Prefix string // default "user"
	// Pause of each user between two steps, on average; default 100 ms. A rate that a
	// laptop can follow matters more than speed.
	Pause time.Duration
	// Purge is how often an admin purges the history of a room, deletes another with
	// purge and has the user directory built anew; default never.
	Purge time.Duration
	// Settled leaves out the user directory, so that no tables come and go and any
	// commit can be restored.
	Settled bool
	// Enough, if any, ends the load before ctx does. It is asked after every step with
	// the count of successes by kind, by one goroutine at a time, and keeps nothing.
	Enough func(done map[string]int) bool
}

// Result is what a load did.
type Result struct {
	Done    map[string]int // steps by kind that were answered with success
	Refused map[string]int // by kind and errcode: answers of 4xx, which races explain
	// Failures are steps that ended otherwise; answers of 500 and above are among the
	// server's Faults too.
	Failures []string
	Users    []*Client
	Rooms    []string // that still exist
	Deleted  []string // rooms that were deleted with purge
}

// Total is the number of steps that succeeded.
func (r *Result) Total() int {
	n := 0
	for _, k := range r.Done {
		n += k
	}
	return n
}

// world is what the users of one load share.
type world struct {
	load   Load
	server *Server
	admin  *Client
	// quiet is held for writing while an admin purges, for reading by a sync. Synapse
	// 1.163.2 answers 500 by itself when events vanish under a reader (KeyError in
	// filter_and_transform_events_for_client); a load that met it would say nothing
	// about what runs beside the homeserver. The purged room is held the same way, by
	// its gone.
	quiet sync.RWMutex

	mu     sync.Mutex
	stop   context.CancelFunc
	rooms  []*place
	users  []*person
	result *Result
}

// place is a room of the world. Whoever acts in it holds gone for reading, so that
// it is purged or deleted between acts; the other rooms go on.
type place struct {
	id        string
	encrypted bool
	public    bool
	creator   string
	gone      sync.RWMutex

	mu      sync.Mutex
	deleted bool
	events  []message // the newest last
	members map[string]bool
	guests  map[string]bool // who may join: invited ones
}

// message is one that somebody may answer, or its author take back.
type message struct{ id, by string }

// person is a user of the world, used by one goroutine.
type person struct {
	*Client
	world   *world
	rng     *rand.Rand
	since   string
	uploads []string
	backup  string
	signed  bool
	n       int
}

// Run makes the users and their rooms, and lets them work until ctx is done. An
// error says that the load could not begin; what happened later is in the result.
func (l Load) Run(ctx context.Context, admin *Client) (*Result, error) {
	if l.Users == 0 {
		l.Users = 8
	}
	if l.Prefix == "" {
		l.Prefix = "user"
	}
	if l.Pause == 0 {
		l.Pause = 100 * time.Millisecond
	}
	w := &world{load: l, server: admin.server, admin: admin, result: &Result{Done: map[string]int{}, Refused: map[string]int{}}}
	if err := w.begin(ctx); err != nil {
		return nil, fmt.Errorf("begin the load: %w", err)
	}
	ctx, w.stop = context.WithCancel(ctx)
	defer w.stop()
	var all sync.WaitGroup
	for _, p := range w.users {
		all.Go(func() { p.live(ctx) })
	}
	if l.Purge > 0 {
		all.Go(func() { w.clean(ctx) })
	}
	all.Wait()
	for _, r := range w.rooms {
		w.result.Rooms = append(w.result.Rooms, r.id)
	}
	return w.result, nil
}

// begin makes the users, a room for all, and an encrypted one for each pair.
func (w *world) begin(ctx context.Context) error {
	if err := w.admin.Settled(ctx); err != nil {
		return err
	}
	for i := range w.load.Users {
		name := fmt.Sprintf("%s%d", w.load.Prefix, i)
		c, err := w.server.Register(ctx, name, "the password of "+name, false)
		if err != nil {
			return err
		}
		if _, err := c.UploadKeys(ctx, 20, i%2 == 0); err != nil {
			return err
		}
		p := &person{Client: c, world: w, rng: rand.New(rand.NewPCG(w.load.Seed, uint64(i)))}
		w.users = append(w.users, p)
		w.result.Users = append(w.result.Users, c)
	}
	if err := w.open(ctx, w.users[0], Room{Name: "Everybody", Public: true}, w.users[1:]...); err != nil {
		return err
	}
	for range 8 { // something to answer, to edit, to purge
		if err := say(ctx, w.users[0], w.rooms[0]); err != nil {
			return err
		}
	}
	for i := 0; i+1 < len(w.users); i += 2 {
		if err := w.open(ctx, w.users[i], Room{Direct: true, Encrypted: true}, w.users[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// open makes a room that others join at once.
func (w *world) open(ctx context.Context, by *person, r Room, others ...*person) error {
	for _, p := range others {
		r.Invite = append(r.Invite, p.UserID)
	}
	id, err := by.CreateRoom(ctx, r)
	if err != nil {
		return err
	}
	room := &place{
		id: id, encrypted: r.Encrypted, public: r.Public, creator: by.UserID,
		members: map[string]bool{by.UserID: true}, guests: map[string]bool{},
	}
	for _, p := range others {
		if _, err := p.Join(ctx, id); err != nil {
			return err
		}
		room.members[p.UserID] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rooms = append(w.rooms, room)
	return nil
}

// live takes steps until ctx is done: each kind once, then as the weights say. A step
// that has begun is finished, so that a failure at the end is one.
func (p *person) live(ctx context.Context) {
	steps := steps()
	var weighted []int
	for i, s := range steps {
		weighted = append(weighted, slices.Repeat([]int{i}, s.weight)...)
	}
	first := p.rng.Perm(len(steps))
	for ctx.Err() == nil {
		i := weighted[p.rng.IntN(len(weighted))]
		if len(first) > 0 {
			i, first = first[0], first[1:]
		}
		work, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		p.world.count(work, steps[i].name, steps[i].do(work, p))
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(p.rng.Int64N(int64(2 * p.world.load.Pause)))):
		}
	}
}

// errIdle: there was nothing to do this step to.
var errIdle = errors.New("nothing to do")

// count files the outcome of a step. What the end of the load cut off is nothing.
func (w *world) count(ctx context.Context, kind string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var e *Error
	switch {
	case err == nil:
		w.result.Done[kind]++
		if w.load.Enough != nil && w.load.Enough(w.result.Done) {
			w.stop()
		}
	case errors.Is(err, errIdle), ctx.Err() != nil:
	case errors.As(err, &e) && e.Status < 500:
		w.result.Refused[kind+": "+e.Code]++
	default:
		w.result.Failures = append(w.result.Failures, fmt.Sprintf("%s: %v", kind, err))
	}
}

// somewhere gives a room that the person is in, held against deletion until the
// call of leave.
func (p *person) somewhere() (room *place, leave func()) {
	return p.find(func(r *place) bool { return r.members[p.UserID] })
}

func (p *person) find(ok func(*place) bool) (room *place, leave func()) {
	w := p.world
	w.mu.Lock()
	rooms := slices.Clone(w.rooms)
	w.mu.Unlock()
	for _, i := range p.rng.Perm(len(rooms)) {
		r := rooms[i]
		if !r.gone.TryRLock() {
			continue
		}
		r.mu.Lock()
		fits := !r.deleted && ok(r)
		r.mu.Unlock()
		if fits {
			return r, r.gone.RUnlock
		}
		r.gone.RUnlock()
	}
	return nil, nil
}

// remember adds a message to the room's list, which keeps the newest.
func (r *place) remember(id, by string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.events = append(r.events, message{id, by}); len(r.events) > 200 {
		r.events = slices.Clone(r.events[100:])
	}
}

// some gives one of the newest messages, of an author if by is not "", or "" when
// there is none.
func (r *place) some(rng *rand.Rand, by string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	newest := slices.Clone(r.events[max(0, len(r.events)-40):])
	if by != "" {
		newest = slices.DeleteFunc(newest, func(m message) bool { return m.by != by })
	}
	if len(newest) == 0 {
		return ""
	}
	return newest[rng.IntN(len(newest))].id
}

// clean is the admin at work: every so often the history of a room is purged,
// another room is deleted with purge, and the user directory is built anew, for
// which Synapse makes tables and drops them. Purges are waited for; a directory
// that is still being built refuses the next one.
func (w *world) clean(ctx context.Context) {
	rng := rand.New(rand.NewPCG(w.load.Seed, 1<<32))
	tick := time.NewTicker(w.load.Purge)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		work, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		w.count(work, "purge history", w.purge(work, rng))
		w.count(work, "delete room", w.remove(work, rng))
		if !w.load.Settled {
			w.count(work, "regenerate directory", w.admin.RegenerateDirectory(work))
		}
		cancel()
	}
}

// purge takes the older half of what is remembered of the first room, or of another.
func (w *world) purge(ctx context.Context, rng *rand.Rand) error {
	w.mu.Lock()
	room := w.rooms[0]
	if rng.IntN(2) == 0 {
		room = w.rooms[rng.IntN(len(w.rooms))]
	}
	w.mu.Unlock()
	room.gone.Lock()
	defer room.gone.Unlock()
	w.quiet.Lock()
	defer w.quiet.Unlock()
	room.mu.Lock()
	n := len(room.events)
	if n < 4 {
		room.mu.Unlock()
		return errIdle
	}
	before := room.events[n/2].id
	room.events = slices.Clone(room.events[n/2:])
	room.mu.Unlock()
	return w.admin.PurgeHistory(ctx, room.id, before)
}

// remove deletes a room that is not the first, after its last act.
func (w *world) remove(ctx context.Context, rng *rand.Rand) error {
	w.mu.Lock()
	if len(w.rooms) < 4 {
		w.mu.Unlock()
		return errIdle
	}
	i := 1 + rng.IntN(len(w.rooms)-1)
	room := w.rooms[i]
	w.rooms = slices.Delete(w.rooms, i, i+1)
	w.mu.Unlock()
	room.gone.Lock()
	defer room.gone.Unlock()
	w.quiet.Lock()
	defer w.quiet.Unlock()
	room.mu.Lock()
	room.deleted = true
	room.mu.Unlock()
	err := w.admin.DeleteRoom(ctx, room.id, true)
	if err == nil {
		w.mu.Lock()
		w.result.Deleted = append(w.result.Deleted, room.id)
		w.mu.Unlock()
	}
	return err
}
