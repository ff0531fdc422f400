package history

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/record"
)

// The model: sources whose logs of transactions are known, agents on hosts that write
// them into lineages, an operator who adds notes, somebody who prunes and calls it off,
// and a reader, over months of the store's clock. Each call of the store or of the key
// directory may fail before or after it took effect, lose its reply, crash its process,
// or stand still while others go on; the pruner's listings may be short. Readers must
// see exactly the source's rows, up to what any agent was told is durable, at each
// moment that retention promises.

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
	faults faults
	laws   lawBook
	clock  time.Time                                  // of the store, at least
	opened map[LineageID]map[uint64]chunkstore.Secret // epoch keys that the operator's identity opened

	lines  []*lineage
	maint  *maintenance
	undone map[chunkstore.Gen]bool
	gone   map[string]bool // removed objects
	events chan event
	frozen []*proc // in the midst of a call
	still  bool    // nothing stands still any more
	narrow bool    // one lineage and no time: what one log alone can come to

	pool  [][]byte         // contents of long lines, used again and again
	refs  []chunkstore.Ref // where they were put last
	trace []string
}

// lineage is one source and what everybody was told about its log.
type lineage struct {
	w       *world
	id      LineageID
	hosts   []*host
	parent  *Parent
	atRest  bool // nobody starts its agents again
	letGo   bool // somebody asked for all of it to be pruned
	wal     []walTx
	acked   record.LSN
	ackedBy map[Position]string
	bases   map[Position]baseFact
	kept    map[string]record.LSN // marks and pins
	rounds  []Round
	held    map[string]record.LSN // legal holds, and where the log began then
	alarms  map[Position]bool
	ready   record.LSN // from here on all can be restored; 0: not yet
}

type baseFact struct {
	table       uint32
	exact, from record.LSN
	text        string
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
	time record.Time
	rows []row
}

const walStart = record.LSN(1000)

// modelKeep is short, so that a world sees many windows.
var modelKeep = Keep{EveryCommit: 7 * day, Weekly: 2, Monthly: 2}

func newWorld(seed uint64, f faults) (*world, error) {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 17)), faults: f, clock: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		opened: map[LineageID]map[uint64]chunkstore.Secret{}, undone: map[chunkstore.Gen]bool{}, gone: map[string]bool{}, events: make(chan event),
	}
	empty, err := emptyRepository()
	if err != nil {
		return nil, err
	}
	w.mem, w.all, w.op = empty.mem.Clone(&w.laws), empty.secrets, empty.operator
	w.repo, err = Open(context.Background(), w.mem)
	for i := range 3 {
		w.pool = append(w.pool, []byte(strings.Repeat(fmt.Sprint("long ", i, " "), 20)))
	}
	w.refs = make([]chunkstore.Ref, len(w.pool))
	w.narrow = seed%2 == 1
	w.maint = &maintenance{proc: proc{w: w, name: "prune"}}
	w.addLineage(seed, nil)
	return w, err
}

func (w *world) addLineage(system uint64, p *Parent) {
	ln := &lineage{
		w: w, parent: p, acked: walStart, ackedBy: map[Position]string{}, bases: map[Position]baseFact{},
		kept: map[string]record.LSN{}, held: map[string]record.LSN{}, alarms: map[Position]bool{},
	}
	ln.id.SystemID, ln.id.Database, ln.id.Lineage = system, 5, record.Lineage{9, byte(len(w.lines))}
	for _, name := range []string{"A", "B"} {
		name += fmt.Sprint(len(w.lines))
		ln.hosts = append(ln.hosts, &host{ln: ln, proc: proc{w: w, name: name, dead: true}, keys: map[uint64]chunkstore.Secret{}})
	}
	w.opened[ln.id] = map[uint64]chunkstore.Secret{}
	w.lines = append(w.lines, ln)
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
func (w *world) logOf(r *Repository, s *Secrets, id LineageID, keys EpochKeys) *Log {
	l := quick(r.Log(s, id, keys))
	l.faults = w.faults
	if s == w.all {
		l.opened = w.opened[id] // unwrapping costs more than all else
	}
	return l
}

// reader is a log for who may see everything, without faults of the store.
func (ln *lineage) reader() *Log { return ln.w.logOf(ln.w.repo, ln.w.all, ln.id, nil) }

// advance lets the store's time pass.
func (w *world) advance(d time.Duration) {
	w.mem.Advance(d)
	w.clock = w.clock.Add(d)
	w.say("%s", w.clock.Format("01-02 15:04"))
}

// tx gives the source's transaction that ends first after an LSN.
func (ln *lineage) tx(after record.LSN) walTx {
	w := ln.w
	i := int((after - walStart) / 100)
	for len(ln.wal) <= i {
		t := walTx{end: walStart + 100*record.LSN(len(ln.wal)+1), time: record.FromTime(w.clock)}
		for n := range w.rng.IntN(4) {
			r := ins(100+uint32(w.rng.IntN(3)), fmt.Sprintf("%d\t%d", len(ln.wal), n))
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
		ln.wal = append(ln.wal, t)
	}
	return ln.wal[i]
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
	for i := range s.Transactions {
		s.Transactions[i].Time = txs[i].time
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

// operator adds a note from a process beside the agents: a mark of the newest position,
// a pin of an older one, or a condemnation of a name without a prune.
func (w *world) operator(ctx context.Context) error {
	ln := w.lines[w.rng.IntN(len(w.lines))]
	l := ln.reader()
	n := Note{Kind: NoteMark, Name: fmt.Sprint("mark ", len(w.trace)), From: ln.acked, Time: record.FromTime(w.clock)}
	switch w.rng.IntN(4) {
	case 0:
		if i := w.rng.IntN(len(w.refs)); w.refs[i].Size > 0 {
			name := l.store.Name(w.refs[i])
			n = Note{Kind: NoteCondemn, Prefixes: [][8]byte{[8]byte(name[:8])}}
			n.Gen[0], n.Gen[1], n.Gen[15] = byte(len(w.trace)), byte(len(w.trace)>>8), 1
		}
	case 1:
		n.Kind, n.From = NotePin, walStart+100*record.LSN(w.rng.IntN(1+int((ln.acked-walStart)/100)))
	}
	err := l.AppendNote(ctx, n)
	w.say("operator %s %s at %s of %d: %v", n.Kind, n.Name, n.From, ln.id.Lineage[1], err)
	switch {
	case err == nil && n.Kind != NoteCondemn:
		ln.kept[n.Name] = n.From
	case err == nil, errors.Is(err, ErrNoLineage), errors.Is(err, ErrEnded), errors.Is(err, ErrPruned):
	default:
		return broken("operator: %w", err)
	}
	return nil
}

// adopt lets a new lineage leave a known commit, as after a restore. The hosts of the
// one before may go on.
func (w *world) adopt() {
	ln := w.lines[len(w.lines)-1]
	if len(w.lines) > 3 || len(ln.ackedBy) == 0 {
		return
	}
	ln.atRest = ln.atRest || w.rng.IntN(2) == 0
	w.addLineage(ln.id.SystemID+1000, &Parent{ID: ln.id, At: ln.acked})
	w.say("adopt")
}
