// Package restore makes a running database of any past commit: a target is
// resolved to a point, a plan says what it takes and what is missing, and the
// plan is materialised into an empty PostgreSQL database and held against the
// digests of its commit. It also finds the commits that touched a table, and takes an
// archive ([Import]) through the same steps.
//
// # Invariants
//
//   - P1 The target is empty or it refuses ([ErrNotEmpty], [ErrUnfinished]).
//   - P2 A restore holds whole transactions, up to the last commit within the
//     target, and nothing of a later one.
//   - P3 What is unverified is visibly unfinished: the table
//     lifeboat.restore_state and a comment on the database stand from before the
//     first object until every proof is in.
//   - P4 The store is never written.
//   - P5 Each table's digest, read back from the database, is that of its commit, or of
//     the rows of the archive that was verified before the first write.
//
// # How rows are merged
//
// The state of a table at T is its newest base with exact-from ≤ T, changed by
// the records up to T of the transactions that the base's snapshot does not see
// (design §5). Nothing is sorted. A first pass over the records notes, for each
// key that some record updates or deletes, where its newest version stands: 24
// bytes per key in an open-addressing table under a 128-bit keyed hash. Then the
// base's lines whose key is not noted are handed to COPY, whole chunks at a time
// where nothing of a table is noted, and a second pass over the records emits the
// newest versions. Tables without a key are multisets of line hashes with counts.
// What does not fit the memory budget is done in several rounds: fewer tables at
// once, then one table by ranges of the hash.
//
// Where the rows go is a sink: a database takes them by COPY, a spool sorts them into
// temporary files for an export ([Plan.Spool]). Both come from the same merge.
//
// # Aftercare
//
// The proof is of the rows as they were at the commit. Only then comes what the mode
// asks for ([Options].Mode): a Synapse that goes on from an earlier time needs its
// sequences above every value ever handed out, and more; package synapse says it as
// data, and it is done in one transaction before the marks of P3 go.
package restore
