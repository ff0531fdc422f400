// Package storetest tests backends, and what is built on them.
//
// [Conformance] is the suite that every [chunkstore.Backend] must pass. [Memory] is
// a backend in memory that enforces the laws of the store on its users, fails on
// demand in each way that a real one can, and lets a test look at and damage what
// it holds.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
)

// TB is what Memory needs of a test: testing.TB and rapid.TB have it.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
}

// Op is an operation of a backend.
type Op string

// The operations.
const (
	OpCreate Op = "create"
	OpGet    Op = "get"
	OpStat   Op = "stat"
	OpList   Op = "list"
	OpRemove Op = "remove"
)

// Fault is how an operation fails.
type Fault int

// The faults. For operations that change nothing, ErrAfter and LostReply are
// ErrBefore, and CrashAfter is Crash.
const (
	// None: no fault.
	None Fault = iota
	// ErrBefore: [ErrInjected], nothing persisted.
	ErrBefore
	// ErrAfter: ErrInjected, but persisted.
	ErrAfter
	// LostReply: persisted, the reply was lost, and the client's own retry met the
	// object: Create returns [chunkstore.ErrExists] for what this very call stored
	// (S3 clients do this; reference/store.md §2.3).
	LostReply
	// Hang: nothing persisted; returns when the context ends.
	Hang
	// Crash: nothing persisted, and from here on the store answers nothing to this
	// process: [ErrCrashed] until Restart.
	Crash
	// CrashAfter is Crash right after persisting.
	CrashAfter
)

// Errors that Memory injects.
var (
	ErrInjected = errors.New("injected fault")
	ErrCrashed  = errors.New("injected crash: the process is dead")
)

// Operation is one line of Memory's log.
type Operation struct {
	Op   Op
	Key  string // List: the prefix
	Size int
	Err  error
}

// Memory is a [chunkstore.Backend] and [chunkstore.Remover]. It fails the test when
// its user breaks a law of the store: a key that no backend can hold, a key created
// again after it was removed, an object that is no chunk under the key of one, or
// the buffer of a Create that is changed while it runs.
type Memory struct {
	tb TB

	mu      sync.Mutex
	objects map[string]object
	removed map[string]bool
	clock   time.Time
	log     []Operation
	next    map[Op][]Fault
	fault   func(Op, string) Fault
	crashed bool
}

type object struct {
	data     []byte
	modified time.Time
}

// NewMemory returns an empty one that complains to tb.
func NewMemory(tb TB) *Memory {
	return &Memory{
		tb: tb, objects: map[string]object{}, removed: map[string]bool{}, next: map[Op][]Fault{},
		clock: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

// Clone returns a copy of what is persisted: the same store, seen by another
// process or after a crash. It has no faults and an empty log.
func (m *Memory) Clone(tb TB) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := NewMemory(tb)
	for k, o := range m.objects {
		c.objects[k] = object{bytes.Clone(o.data), o.modified}
	}
	c.removed = maps.Clone(m.removed)
	c.clock = m.clock
	return c
}

// FailNext makes the next operation of that sort fail; several calls queue up.
func (m *Memory) FailNext(op Op, f Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next[op] = append(m.next[op], f)
}

// SetFault asks f before each operation (after what FailNext queued); nil ends it.
// f is called under the store's lock and must not call it.
func (m *Memory) SetFault(f func(op Op, key string) Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// Restart ends a crash and all faults.
func (m *Memory) Restart() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.crashed, m.fault, m.next = false, nil, map[Op][]Fault{}
}

// Crashed reports whether a Crash happened since Restart.
func (m *Memory) Crashed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.crashed
}

// Advance moves the store's clock.
func (m *Memory) Advance(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clock = m.clock.Add(d)
}

// Keys returns the keys of all objects, ascending.
func (m *Memory) Keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.objects))
}

// Object returns a copy of an object's bytes, nil if there is none.
func (m *Memory) Object(key string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.objects[key].data)
}

// Corrupt flips the lowest bit of one byte; a negative off counts from the end.
func (m *Memory) Corrupt(key string, off int) {
	m.damage(key, func(b []byte) []byte {
		if off < 0 {
			off += len(b)
		}
		b[off] ^= 1
		return b
	})
}

// Truncate cuts an object down to n bytes.
func (m *Memory) Truncate(key string, n int) {
	m.damage(key, func(b []byte) []byte { return b[:n] })
}

// Replace puts other bytes at a key, as only damage or an attacker can; the key
// need not exist.
func (m *Memory) Replace(key string, data []byte) {
	m.damage(key, func([]byte) []byte { return bytes.Clone(data) })
}

// Lose makes an object vanish, as only damage or an attacker can.
func (m *Memory) Lose(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
}

func (m *Memory) damage(key string, f func([]byte) []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.objects[key]
	o.data = f(bytes.Clone(o.data))
	m.objects[key] = o
}

// Log returns the operations so far.
func (m *Memory) Log() []Operation {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.log)
}

// ClearLog forgets them.
func (m *Memory) ClearLog() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = nil
}

// WithoutRemove is the same store under an identity that may not delete: no
// [chunkstore.Remover].
func (m *Memory) WithoutRemove() chunkstore.Backend { return struct{ chunkstore.Backend }{m} }

// begin returns the fault of an operation. It is called and returns with the lock
// held, whatever happens.
func (m *Memory) begin(ctx context.Context, op Op, key string) (Fault, error) {
	if err := ctx.Err(); err != nil {
		return ErrBefore, err
	}
	if m.crashed {
		return ErrBefore, ErrCrashed
	}
	f := None
	if queue := m.next[op]; len(queue) > 0 {
		f, m.next[op] = queue[0], queue[1:]
	} else if m.fault != nil {
		f = m.fault(op, key)
	}
	switch f {
	case Hang:
		m.mu.Unlock()
		<-ctx.Done()
		m.mu.Lock()
		return f, ctx.Err()
	case Crash, CrashAfter:
		m.crashed = true
		return f, ErrCrashed
	case ErrBefore, ErrAfter, LostReply:
		return f, ErrInjected
	}
	return f, nil
}

func (m *Memory) record(op Op, key string, size int, err error) {
	m.log = append(m.log, Operation{op, key, size, err})
}

// Create implements [chunkstore.Backend].
func (m *Memory) Create(ctx context.Context, key string, data []byte) (err error) {
	m.tb.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() { m.record(OpCreate, key, len(data), err) }()
	if err := chunkstore.CheckKey(key); err != nil {
		m.tb.Errorf("create: %v", err)
		return fmt.Errorf("create %q: %w", key, err)
	}
	before := bytes.Clone(data)
	f, fault := m.begin(ctx, OpCreate, key)
	if !bytes.Equal(before, data) {
		m.tb.Errorf("create %s: the data changed while it was being stored", key)
	}
	if fault != nil && f != ErrAfter && f != LostReply && f != CrashAfter {
		return fmt.Errorf("create %s: %w", key, fault)
	}
	_, exists := m.objects[key]
	if !exists {
		m.check(key, data)
		m.clock = m.clock.Add(time.Millisecond)
		m.objects[key] = object{before, m.clock}
	}
	if exists && fault == nil || f == LostReply {
		return fmt.Errorf("create %s: %w", key, chunkstore.ErrExists)
	}
	if fault != nil {
		return fmt.Errorf("create %s: %w", key, fault)
	}
	return nil
}

// check holds a new object against the laws.
func (m *Memory) check(key string, data []byte) {
	m.tb.Helper()
	if m.removed[key] {
		m.tb.Errorf("create %s: the key was removed and must never be used again", key)
	}
	if strings.HasPrefix(key, "chunk/") {
		if _, err := chunkstore.ParseKey(key); err != nil {
			m.tb.Errorf("create %s: %v", key, err)
		}
		if !bytes.HasPrefix(data, []byte("LIFECHNK")) {
			m.tb.Errorf("create %s: no chunk", key)
		}
	}
}

// Get implements [chunkstore.Backend].
func (m *Memory) Get(ctx context.Context, key string) (data []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() { m.record(OpGet, key, len(data), err) }()
	o, err := m.read(ctx, OpGet, key)
	return bytes.Clone(o.data), err
}

// Stat implements [chunkstore.Backend].
func (m *Memory) Stat(ctx context.Context, key string) (info chunkstore.Info, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() { m.record(OpStat, key, int(info.Size), err) }()
	o, err := m.read(ctx, OpStat, key)
	if err != nil {
		return chunkstore.Info{}, err
	}
	return chunkstore.Info{Key: key, Size: int64(len(o.data)), Modified: o.modified}, nil
}

func (m *Memory) read(ctx context.Context, op Op, key string) (object, error) {
	if _, err := m.begin(ctx, op, key); err != nil {
		return object{}, fmt.Errorf("%s %s: %w", op, key, err)
	}
	o, ok := m.objects[key]
	if !ok {
		return object{}, fmt.Errorf("%s %s: %w", op, key, chunkstore.ErrNotFound)
	}
	if o.data == nil {
		o.data = []byte{}
	}
	return o, nil
}

// List implements [chunkstore.Backend].
func (m *Memory) List(ctx context.Context, prefix string, f func(chunkstore.Info) error) error {
	infos, err := m.list(ctx, prefix)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if err := f(info); err != nil {
			return err
		}
	}
	return nil
}

func (m *Memory) list(ctx context.Context, prefix string) (infos []chunkstore.Info, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() { m.record(OpList, prefix, len(infos), err) }()
	if _, err := m.begin(ctx, OpList, prefix); err != nil {
		return nil, fmt.Errorf("list %q: %w", prefix, err)
	}
	for k, o := range m.objects {
		if strings.HasPrefix(k, prefix) {
			infos = append(infos, chunkstore.Info{Key: k, Size: int64(len(o.data)), Modified: o.modified})
		}
	}
	slices.SortFunc(infos, func(a, b chunkstore.Info) int { return strings.Compare(a.Key, b.Key) })
	return infos, nil
}

// Remove implements [chunkstore.Remover].
func (m *Memory) Remove(ctx context.Context, key string) (err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() { m.record(OpRemove, key, 0, err) }()
	f, fault := m.begin(ctx, OpRemove, key)
	if fault == nil || f == ErrAfter || f == LostReply || f == CrashAfter {
		if _, ok := m.objects[key]; ok {
			m.removed[key] = true
		}
		delete(m.objects, key)
	}
	if fault != nil && f != LostReply {
		return fmt.Errorf("remove %s: %w", key, fault)
	}
	return nil
}
