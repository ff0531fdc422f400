package history

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/record"
)

// The model: a source whose log of transactions is known, agents on two hosts that
// write it into one lineage, an operator who adds notes, and a reader. Each call of
// the store or of the key directory may fail before or after it took effect, lose
// its reply, crash its process, or let another process act first. Readers must see
// exactly the source's rows, at least up to what any agent was told is durable.

var (
	errModel = errors.New("model")
	errDead  = errors.New("the process is dead")
	errFault = errors.New("injected fault")
)

type world struct {
	rng    *rand.Rand
	mem    *storetest.Memory
	repo   *Repository
	all    *Secrets
	op     *age.X25519Identity
	id     LineageID
	faults faults
	laws   lawBook
	opened map[uint64]chunkstore.Secret // epoch keys that the operator's identity opened

	hosts []*host
	depth int

	wal     []walTx
	acked   record.LSN
	ackedBy map[Position]string
	bases   map[Position]uint32
	marks   map[string]bool
	pool    [][]byte         // contents of long lines, used again and again
	refs    []chunkstore.Ref // where they were put last
	trace   []string
}

// lawBook collects what the store complains about.
type lawBook struct {
	mu    sync.Mutex
	broke []string
}

func (*lawBook) Helper() {}

func (l *lawBook) Errorf(format string, a ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broke = append(l.broke, fmt.Sprintf(format, a...))
}

type walTx struct {
	end  record.LSN
	rows []row
}

const walStart = record.LSN(1000)

// host is one machine: its key directory outlives its process.
type host struct {
	w    *world
	name string
	keys map[uint64]chunkstore.Secret
	// The process: dead until it is started again.
	dead   bool
	steps  int
	at     int // the step at which kind happens
	kind   int
	repo   *Repository
	log    *Log
	view   *View // loaded, for a Begin that did not happen yet
	writer *Writer
}

// The ways in which one step goes wrong.
const (
	failBefore = iota
	failAfter
	loseReply
	crashBefore
	crashAfter
	outage
	letOther
	kinds
)

// step does one call of the store or the key directory.
func (h *host) step(f func() error, create bool) error {
	if h.dead {
		return errDead
	}
	h.steps++
	if h.steps < h.at || (h.steps > h.at && h.kind != outage) || h.at == 0 {
		return f()
	}
	switch h.kind {
	case failBefore:
		return errFault
	case failAfter:
		_ = f()
		return errFault
	case loseReply:
		err := f()
		if err == nil && create {
			return chunkstore.ErrExists
		}
		return err
	case crashBefore:
		h.dead = true
		return errDead
	case crashAfter:
		_ = f()
		h.dead = true
		return errDead
	case outage:
		if h.steps == h.at && h.w.rng.IntN(2) == 0 {
			_ = f()
		}
		return errFault
	}
	if err := h.w.other(h); err != nil {
		return err
	}
	return f()
}

func (h *host) Create(ctx context.Context, key string, data []byte) error {
	return h.step(func() error { return h.w.mem.Create(ctx, key, data) }, true)
}

func (h *host) Get(ctx context.Context, key string) (b []byte, err error) {
	err = h.step(func() (err error) { b, err = h.w.mem.Get(ctx, key); return err }, false)
	return b, err
}

func (h *host) Stat(ctx context.Context, key string) (i chunkstore.Info, err error) {
	err = h.step(func() (err error) { i, err = h.w.mem.Stat(ctx, key); return err }, false)
	return i, err
}

func (h *host) List(ctx context.Context, prefix string, f func(chunkstore.Info) error) error {
	return h.step(func() error { return h.w.mem.List(ctx, prefix, f) }, false)
}

// hostKeys are the host's epoch keys, each call a step.
type hostKeys struct{ *host }

func (k hostKeys) Put(epoch uint64, s chunkstore.Secret) error {
	return k.step(func() error { k.keys[epoch] = s; return nil }, false)
}

func (k hostKeys) Get(epoch uint64) (s chunkstore.Secret, err error) {
	err = k.step(func() error {
		var ok bool
		if s, ok = k.keys[epoch]; !ok {
			return ErrNoKey
		}
		return nil
	}, false)
	return s, err
}

func (k hostKeys) Remove(epoch uint64) error {
	return k.step(func() error { delete(k.keys, epoch); return nil }, false)
}

func newWorld(seed uint64, f faults) (*world, error) {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 17)), faults: f, acked: walStart,
		opened: map[uint64]chunkstore.Secret{}, ackedBy: map[Position]string{}, bases: map[Position]uint32{}, marks: map[string]bool{},
	}
	empty, err := emptyRepository()
	if err != nil {
		return nil, err
	}
	w.mem, w.repo, w.all, w.op = empty.mem.Clone(&w.laws), nil, empty.secrets, empty.operator
	w.id.SystemID, w.id.Database, w.id.Lineage = seed, 5, record.Lineage{9}
	w.repo, err = Open(context.Background(), w.mem)
	for i := range 3 {
		w.pool = append(w.pool, []byte(strings.Repeat(fmt.Sprint("long ", i, " "), 20)))
	}
	w.refs = make([]chunkstore.Ref, len(w.pool))
	for _, name := range []string{"A", "B"} {
		w.hosts = append(w.hosts, &host{w: w, name: name, keys: map[uint64]chunkstore.Secret{}, dead: true})
	}
	return w, err
}

// emptyRepository is made once: its polynomial costs more than a whole world.
var emptyRepository = sync.OnceValues(func() (*bench, error) {
	op, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	b := &bench{mem: storetest.NewMemory(&lawBook{}), operator: op}
	b.repo, b.secrets, err = Create(context.Background(), b.mem, CreateOptions{Recipients: []string{op.Recipient().String()}})
	return b, err
})

func (w *world) say(format string, a ...any) { w.trace = append(w.trace, fmt.Sprintf(format, a...)) }

// broken makes an error that means: an invariant does not hold.
func broken(format string, a ...any) error {
	return fmt.Errorf("%w: %w", errModel, fmt.Errorf(format, a...))
}

// logOf gives a log with the model's faults.
func (w *world) logOf(r *Repository, s *Secrets, keys EpochKeys) *Log {
	l := quick(r.Log(s, w.id, keys))
	l.faults = w.faults
	if s == w.all {
		l.opened = w.opened // unwrapping costs more than all else
	}
	return l
}

// tx gives the source's transaction that ends first after an LSN.
func (w *world) tx(after record.LSN) walTx {
	i := int((after - walStart) / 100)
	for len(w.wal) <= i {
		t := walTx{end: walStart + 100*record.LSN(len(w.wal)+1)}
		for n := range w.rng.IntN(4) {
			r := ins(100+uint32(w.rng.IntN(3)), fmt.Sprintf("%d\t%d", len(w.wal), n))
			switch w.rng.IntN(6) {
			case 0:
				r.op = record.Delete
			case 1:
				r.long = 1 + w.rng.IntN(len(w.pool))
				r.text = string(w.pool[r.long-1])
			}
			r.end, r.ordinal = t.end, uint64(n)
			t.rows = append(t.rows, r)
		}
		w.wal = append(w.wal, t)
	}
	return w.wal[i]
}

// start brings up a host's process.
func (h *host) start(ctx context.Context) error {
	h.dead, h.at, h.steps = false, 0, 0
	h.writer, h.view = nil, nil
	var err error
	if h.repo, err = Open(ctx, h); err != nil {
		return err
	}
	h.log = h.w.logOf(h.repo, h.w.all.Agent(), hostKeys{h})
	return nil
}

// arm decides whether and how something goes wrong in the next operation.
func (h *host) arm() {
	h.steps, h.at = 0, 0
	if h.w.rng.IntN(3) == 0 {
		h.at, h.kind = 1+h.w.rng.IntN(9), h.w.rng.IntN(kinds)
		if h.kind == letOther && h.w.depth > 0 {
			h.at = 0
		}
	}
}

// other lets another process act inside a step of h.
func (w *world) other(h *host) error {
	if w.depth > 0 {
		return nil
	}
	w.depth++
	defer func() { w.depth-- }()
	w.say("  inside a step of %s:", h.name)
	if w.rng.IntN(3) == 0 {
		return w.operator(context.Background())
	}
	for _, o := range w.hosts {
		if o != h {
			return o.act(context.Background())
		}
	}
	return nil
}

// act does one random thing on a host. Its error is of the model; what the code
// under test returns is judged here.
func (h *host) act(ctx context.Context) error {
	if h.dead {
		return h.start(ctx)
	}
	h.arm()
	var what string
	var err error
	switch {
	case h.writer == nil && h.view == nil:
		what = "load"
		h.view, err = h.log.Load(ctx)
		if errors.Is(err, ErrNoLineage) {
			what = "begin the lineage"
			err = h.begin(ctx, nil)
		}
	case h.writer == nil:
		what = "begin"
		err = h.begin(ctx, h.view)
	default:
		what, err = h.write(ctx)
	}
	h.w.say("%s %s: %v", h.name, what, err)
	return h.judge(ctx, err)
}

// judge says whether an error may be, and what it does to the process.
func (h *host) judge(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, errModel) {
		return err
	}
	if errors.Is(err, ErrFenced) {
		epoch, ended := uint64(0), false
		if h.writer != nil {
			epoch = h.writer.View().Head.Epoch
		} else if h.view != nil {
			epoch = h.view.Head.Epoch
		}
		v, lerr := h.w.logOf(h.w.repo, h.w.all, nil).Load(ctx)
		if lerr != nil {
			return broken("load after fencing: %w", lerr)
		}
		ended = v.Ended && v.Head.Epoch == epoch
		first := h.view == nil && h.writer == nil // begin of the lineage
		if !ended && v.Head.Epoch <= epoch && !first {
			return broken("%s was fenced in epoch %d by nobody: %w", h.name, epoch, err)
		}
		h.dead = true
		return nil
	}
	if h.writer != nil && !h.dead {
		// The writer is in doubt and stays so.
		inDoubt := h.writer.dead != nil
		if e := h.writer.Note(ctx, Note{Kind: NoteComplete, Table: 1, Until: 1}); inDoubt && e == nil {
			return broken("%s writes on after %w", h.name, err)
		}
	}
	if h.dead || errors.Is(err, errFault) || errors.Is(err, errDead) {
		if h.writer != nil {
			h.dead = true
		}
		return nil
	}
	return broken("%s: %w", h.name, err)
}

func (h *host) begin(ctx context.Context, v *View) error {
	o := Opening{Durable: walStart, Host: h.name, Slot: "s"}
	if v != nil {
		o.Durable = v.Durable
	}
	w, err := h.log.Begin(ctx, v, hostKeys{h}, o)
	if err != nil {
		return err
	}
	h.writer, h.view = w, nil
	return h.ack()
}

// ack notes that the host was told that its head is durable.
func (h *host) ack() error {
	v := h.writer.View()
	w := h.w
	if who := w.ackedBy[v.Head]; who != "" && who != h.name {
		return broken("entry %s was acknowledged to %s and to %s", v.Head, who, h.name)
	}
	w.ackedBy[v.Head] = h.name
	w.acked = max(w.acked, v.Durable)
	return nil
}

// write does one random call of the writer.
func (h *host) write(ctx context.Context) (what string, err error) {
	switch n := h.w.rng.IntN(20); {
	case n < 8:
		return "segment", h.segment(ctx)
	case n < 10:
		return "base", h.base(ctx)
	case n < 12:
		return "rotate", h.acked(h.writer.Rotate(ctx, Opening{Host: h.name, Slot: "s"}))
	case n < 15:
		list := h.writer.Unmerged()
		if len(list) == 0 {
			return "merge nothing", nil
		}
		epoch := list[h.w.rng.IntN(len(list))]
		err := h.writer.Merge(ctx, epoch)
		if errors.Is(err, ErrNoKey) {
			return "merge without the key", h.lostKey(epoch)
		}
		if _, held := h.keys[epoch]; held && err == nil {
			return "merge", broken("the key of epoch %d is held after its merge", epoch)
		}
		return fmt.Sprint("merge ", epoch), err
	case n < 16:
		return "checkpoint", h.acked(h.writer.Checkpoint(ctx))
	case n < 17:
		_, err := h.writer.Probe(ctx)
		return "probe", err
	case n < 18:
		d := h.writer.View().Durable
		d += record.LSN(h.w.rng.IntN(int(99 - (d-walStart)%100)))
		return "position", h.acked(h.writer.Note(ctx, Note{Kind: NotePosition, Durable: d}))
	default:
		return "incomplete", h.acked(h.writer.Note(ctx, Note{Kind: NoteIncomplete, Table: 100, From: h.writer.View().Durable}))
	}
}

func (h *host) acked(err error) error {
	if err != nil {
		return err
	}
	return h.ack()
}

// lostKey says whether a host may be without the key of an epoch.
func (h *host) lostKey(epoch uint64) error {
	for _, e := range h.writer.View().Epochs {
		if e.Epoch == epoch && e.Host == h.name {
			return broken("%s opened epoch %d and has lost its key", h.name, epoch)
		}
	}
	return nil
}

// segment writes the next one to three transactions of the source.
func (h *host) segment(ctx context.Context) error {
	at := h.writer.View().Durable
	var txs []walTx
	for range 1 + h.w.rng.IntN(3) {
		t := h.w.tx(at)
		txs, at = append(txs, t), t.end
	}
	for {
		s, reach, err := h.w.build(ctx, h.log.Store(), h.writer.View().Durable, txs)
		if err != nil {
			return err
		}
		err = h.writer.Segment(ctx, s, SegmentMeta{Reach: reach})
		var c *ErrCondemned
		if errors.As(err, &c) {
			continue // put again, under the next generation
		}
		if err == nil {
			h.w.acked = max(h.w.acked, s.End)
		}
		return h.acked(err)
	}
}

// build makes a segment; long lines and now and then a part go to chunks.
func (w *world) build(ctx context.Context, st *chunkstore.Store, start record.LSN, txs []walTx) (*record.Segment, []chunkstore.Name, error) {
	var reach []chunkstore.Name
	s, err := segmentAt(start, txs, func(long int) ([]record.Extent, error) {
		p, err := st.Put(ctx, chunkstore.KindBytes, w.pool[long-1], chunkstore.Fast)
		if err != nil {
			return nil, err
		}
		w.refs[long-1] = p.Ref
		reach = append(reach, p.Name)
		n := uint64(len(w.pool[long-1]))
		return []record.Extent{
			{Chunk: p.Ref.D, Gen: p.Ref.Gen, Length: 7},
			{Chunk: p.Ref.D, Gen: p.Ref.Gen, Offset: 7, Length: n - 7},
		}, nil
	})
	if err != nil {
		return nil, nil, err
	}
	for i := range s.Parts {
		if part := &s.Parts[i]; w.rng.IntN(3) == 0 {
			p, err := st.Put(ctx, chunkstore.KindRecords, part.Inline, chunkstore.Fast)
			if err != nil {
				return nil, nil, err
			}
			part.Chunk = &record.Extent{Chunk: p.Ref.D, Gen: p.Ref.Gen, Length: uint64(len(part.Inline))}
			part.Inline = nil
			reach = append(reach, p.Name)
		}
	}
	return s, reach, nil
}

func (h *host) base(ctx context.Context) error {
	rels := testRelations()
	rel := rels[h.w.rng.IntN(len(rels))]
	rows := []byte(fmt.Sprintf("%d\tx\n", h.w.rng.IntN(4)))
	for {
		p, err := h.log.Store().Put(ctx, chunkstore.KindRows, rows, chunkstore.Default)
		if err != nil {
			return err
		}
		d := h.writer.View().Durable
		err = h.writer.Base(ctx, &Base{
			Relation: rel, Pieces: []Piece{{Rows: &p.Ref}}, RecordsFrom: d, ExactFrom: d + 10,
			Digest: record.Digest{Count: 1}, Bytes: int64(len(rows)),
		}, []chunkstore.Name{p.Name})
		var c *ErrCondemned
		if errors.As(err, &c) {
			continue
		}
		if err == nil {
			h.w.bases[h.writer.View().Head] = rel.OID
		}
		return h.acked(err)
	}
}

// operator adds a note from a process beside the agents.
func (w *world) operator(ctx context.Context) error {
	l := w.logOf(w.repo, w.all, nil)
	n := Note{Kind: NoteMark, Name: fmt.Sprint("mark ", len(w.trace))}
	if w.rng.IntN(2) == 0 {
		n = Note{Kind: NoteCondemn}
		n.Gen[0], n.Gen[1] = byte(len(w.trace)), byte(len(w.trace)>>8)
		n.Gen[15] = 1
		i := w.rng.IntN(len(w.refs))
		name := l.store.Name(w.refs[i])
		if w.refs[i].Size == 0 {
			return nil
		}
		n.Prefixes = [][8]byte{[8]byte(name[:8])}
	}
	err := l.AppendNote(ctx, n)
	w.say("operator %s: %v", n.Kind, err)
	switch {
	case err == nil && n.Kind == NoteMark:
		w.marks[n.Name] = true
	case err == nil, errors.Is(err, ErrNoLineage), errors.Is(err, ErrEnded):
	default:
		return broken("operator: %w", err)
	}
	return nil
}
