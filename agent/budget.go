package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lifeboat.im/lifeboat/cdc"
)

// budget lets go of the slot rather than fill the source's disk.
func (a *agent) budget(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	warned := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		slot, err := a.source.Slot(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		limit := a.o.Tuning.WALBudget
		if slot == nil {
			return lostSlot(nil, a.o.Source.Slot)
		}
		over, err := a.o.wal.over(slot.RetainedBytes)
		if err != nil {
			return err
		}
		switch {
		case over:
			a.stream.Close()
			return letGo(a.source, slot.RetainedBytes, limit)
		case limit < 0:
		case slot.RetainedBytes > limit/2 && !warned:
			warned = true
			a.log.Warn("the source keeps much WAL for us", "bytes", slot.RetainedBytes, "budget", limit)
		case slot.RetainedBytes < limit/4:
			warned = false
		}
	}
}

// guard is budget between two sessions: while the store cannot be reached none
// comes to its work, and the source keeps WAL for us all the same.
func (o *Options) guard(ctx context.Context) error {
	if o.Tuning.WALBudget < 0 || ctx.Err() != nil {
		return nil
	}
	src, id, err := o.connect(ctx)
	if err != nil {
		return nil // the next session says it
	}
	defer src.Close(context.WithoutCancel(ctx))
	if lin, err := Lineage(o.State); err != nil || lin.Source != id.Source {
		return nil // a slot of that name there is not ours
	}
	slot, err := src.Slot(ctx)
	if err != nil || slot == nil || ownSlot(slot, o.Source.Slot, id.Database) != nil {
		return nil // as above
	}
	if over, err := o.wal.over(slot.RetainedBytes); err != nil || !over {
		return err
	}
	return letGo(src, slot.RetainedBytes, o.Tuning.WALBudget)
}

// letGo drops the slot. What was received stays; the gap begins at the durable
// position and is named by the next run --new-base.
func letGo(src *cdc.Source, retained, limit int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := dropSlot(ctx, src)
	said := fmt.Errorf("the source kept %d MiB of WAL for us, more than wal_budget (%d MiB): the slot was given up so that its disk does not fill; run `lifeboat run --new-base`: %w",
		retained>>20, limit>>20, ErrSourceLost)
	return errors.Join(said, err)
}

// dropSlot drops the slot; its walsender needs a moment to notice that we are gone.
func dropSlot(ctx context.Context, src *cdc.Source) error {
	var err error
	for range 20 {
		if err = src.DropSlot(ctx); err == nil || !errors.Is(err, cdc.ErrSlotActive) {
			return err
		}
		t := time.NewTimer(250 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return err
		case <-t.C:
		}
	}
	return err
}
