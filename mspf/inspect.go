package mspf

import "context"

// Inspect says what an archive holds: its restore point, items and report. It reads
// every byte, because only so an archive is known to be whole, and no element. The
// counts are those of the integrity item; of an archive without one only files and
// bytes are counted.
func Inspect(ctx context.Context, path string, o ReadOptions) (*Outcome, error) {
	return walk(ctx, path, o, hooks{sizes: true})
}
