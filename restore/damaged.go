package restore

import (
	"errors"
	"fmt"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// Damaged is a branch whose log cannot be read. What it holds, and from which other
// branch it came, is not known.
type Damaged struct {
	ID  history.LineageID
	Err error
}

// String says it in a line.
func (d Damaged) String() string { return fmt.Sprintf("the branch %s cannot be read: %v", d.ID, d.Err) }

// isDamage tells what is wrong with one log from what hinders reading any.
func isDamage(err error) bool {
	return errors.Is(err, chunkstore.ErrDamaged) || errors.Is(err, chunkstore.ErrNotFound) || errors.Is(err, record.ErrCorrupt)
}

// broken gives the damage that leaves a question about the host's branch open: its own
// and, of a host that nothing names, anybody's; else nil.
func (b *Branches) broken() error {
	if b.Host != nil || len(b.Damaged) == 0 {
		return nil
	}
	d := b.Damaged[0]
	for _, o := range b.Damaged {
		if o.ID == b.asked {
			d = o
		}
	}
	err := fmt.Errorf("read log %s: %w", d.ID, d.Err)
	if len(b.All) > 0 {
		err = fmt.Errorf("%w; these can be read: %s", err, choices(Leaves(b.All)))
	}
	return err
}

// cut gives the damage of the nearest ancestor that cannot be read; nil when the line is
// whole.
func (b *Branches) cut(line []*history.View) error {
	p := parentOf(line[len(line)-1])
	for _, d := range b.Damaged {
		if p != nil && d.ID == p.ID {
			return fmt.Errorf("read log %s: %w", d.ID, d.Err)
		}
	}
	return nil
}
