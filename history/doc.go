// Package history keeps the append-only log of one source's lineage: the only
// commit point of a repository. It writes and reads every entry kind, rotates
// the epoch keys, merges an ended epoch's segments, and gives readers a [View].
// It knows package record's values and package chunkstore's backend, no
// PostgreSQL client and no Matrix.
//
// # Objects
//
//	lifeboat.json                                        clear, written once
//	keys/<n>.age, keys/0.clear                           the repository's secrets
//	log/<source>.<lineage>/<epoch 10 digits>/<seq 10 digits>
//
// # Invariants
//
//   - H1 Everything reachable from an entry exists and verifies.
//   - H2 Chunks, then the entry that names them, then Confirm; a nil error of
//     [Writer.Segment] is what Confirm waits for. Delete: condemn, wait, remove.
//   - H3 An entry's author has read every entry before it.
//   - H4 Losing a number to another agent is fatal to the writer: [ErrFenced], and
//     the writer never writes again.
//   - H5 Recovery is normal code: [Log.Load] and [Log.Begin] after a crash at any
//     durable step are the same calls as after a clean stop.
//   - H6 Creating a repository is an explicit command ([Create]); [Open] never
//     creates.
//   - H7 Durable LSNs never decrease within a lineage; a lineage never continues on
//     another source.
//   - H8 No condemned name is referenced again: [ErrCondemned].
//
// # Crash argument
//
// Each durable step is one create-if-absent of one object. A crash before it
// leaves chunks that nobody names (the next Put finds them); a crash after it, or
// a lost reply, leaves an entry that the next Load reads like any other. Steps
// that belong together (end and epoch; history, checkpoint and the removal of a
// key) can be cut apart anywhere: Begin completes the first pair, Unmerged names
// what is left of the second.
package history
