// Package agent is the service: it follows a source with package cdc, turns its
// commits into segments, appends them to the source's log with package history,
// and only then confirms them to PostgreSQL. Beside the stream it copies tables,
// proves each copy against the digest that the records predict, merges ended
// epochs and keeps the schema.
//
// # Invariants
//
//   - G1 Chunks, then the entry that names them, then Confirm; no other order exists.
//   - G2 No state that matters lives outside the slot and the store: the state
//     directory holds keys, whose loss costs a re-copy and never data.
//   - G3 Memory is bounded: when the store is slower than the source, reading stops
//     and the log says so; nothing is dropped.
//   - G4 The first error that is not transient ends Run; systemd restarts it.
//   - G5 Every copy of a table is held against the digest that the records predict.
package agent
