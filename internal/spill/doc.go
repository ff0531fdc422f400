// Package spill sorts more than fits the memory. What does not fit lies in temporary
// files that nobody else can open or read: they lose their names as soon as they are
// made, and are encrypted under a key that only this process has, so that neither a
// crash nor a swapped-out page of the disk's cache leaves anything to read.
//
// # Invariants
//
//   - L1 What comes out is what went in, ascending by key bytes, then value bytes, how
//     often and by how many readers at once it is gone through.
//   - L2 A sorter takes its budget and a little for blocks, whatever it is given; only a
//     single pair that is larger is held beside it.
//   - L3 What was altered or cut off on disk is an error, never other pairs.
//   - L4 No file has a name while it has content, and none is left by a process that was
//     killed; a sorter has few open, five for a thousand thousand times its budget.
package spill
