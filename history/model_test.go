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
