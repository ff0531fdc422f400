package cdc

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"lifeboat.im/lifeboat/record"
)

// HugeRow is the size of a row from which identity full is no longer safe: with it
// an UPDATE logs the old row as one WAL record, which fails at about 1 GB, and the
// walsender prints it as one message, with the same limit (protocol §5).
const HugeRow = 256 << 20

// hugeStored is HugeRow as it is stored: a bytea doubles when it is printed.
const hugeStored = HugeRow / 2

// lookBlocks is how many heap blocks one query looks at; a lock is held no longer.
const lookBlocks = 8192

// hugeTables remembers, by oid, which tables hold rows beyond HugeRow.
type hugeTables struct {
	mu     sync.Mutex
	found  map[uint32]bool
	looked map[uint32]bool
}

func (h *hugeTables) has(oid uint32) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.found[oid]
}

func (h *hugeTables) set(oid uint32, found bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.found == nil {
		h.found, h.looked = map[uint32]bool{}, map[uint32]bool{}
	}
	h.looked[oid] = true
	h.found[oid] = h.found[oid] || found
}

// FoundHugeRow tells the Source that a row of the table is larger than HugeRow: from
// the next Catalog on its identity is minimal.
func (s *Source) FoundHugeRow(oid uint32) { s.huge.set(oid, true) }

// LookForHugeRow reads the sizes of a large table's rows, once, before identity full
// is set on it; values stay where they are stored. True: the Catalog must be read
// again, and says minimal.
func (s *Source) LookForHugeRow(ctx context.Context, t *Table) (bool, error) {
	oid := t.Relation.OID
	s.huge.mu.Lock()
	known, found := s.huge.looked[oid], s.huge.found[oid]
	s.huge.mu.Unlock()
	if known || t.Wanted != record.Full {
		return found && t.Wanted == record.Full, nil
	}
	found, err := s.hasHugeRow(ctx, t)
	if err != nil {
		return false, fmt.Errorf("look for huge rows in %s: %w", t.Relation.String(), classify(err))
	}
	s.huge.set(oid, found)
	return found, nil
}

func (s *Source) hasHugeRow(ctx context.Context, t *Table) (found bool, err error) {
	rel := &t.Relation
	var sizes []string
	for i := range rel.Columns {
		sizes = append(sizes, fmt.Sprintf("coalesce(pg_catalog.pg_column_size(%s), 0)::int8", ident(rel.Columns[i].Name)))
	}
	if len(sizes) == 0 {
		return false, nil
	}
	var blocks int64
	err = s.ask(ctx, func(ctx context.Context, c *session) error {
		r, err := c.one(ctx, `SELECT CASE WHEN pg_catalog.pg_table_size($1::oid) > $2::int8 THEN
			pg_catalog.pg_relation_size($1::oid) / current_setting('block_size')::int8 + 1 ELSE 0 END`, fmt.Sprint(rel.OID), fmt.Sprint(int64(hugeStored)))
		if err != nil {
			return err
		}
		blocks = r.int64()
		return r.err
	})
	for from := int64(0); err == nil && !found && from < blocks; from += lookBlocks {
		err = s.ask(ctx, func(ctx context.Context, c *session) error {
			rows, err := c.query(ctx, fmt.Sprintf(`SELECT 1 FROM ONLY %s.%s WHERE ctid >= '(%d,0)' AND ctid < '(%d,0)' AND %s > %d LIMIT 1`,
				ident(rel.Schema), ident(rel.Name), from, from+lookBlocks, strings.Join(sizes, " + "), int64(hugeStored)))
			found = len(rows) > 0
			return err
		})
	}
	return found, err
}
