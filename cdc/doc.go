// Package cdc captures changes from PostgreSQL 14 to 18: sessions, preflight
// checks, the catalog, replica identities, the publication, table copies,
// sequences, schema dumps, the replication slot and the stream decoder.
//
// # Invariants
//
//   - C1 The flush position that is reported to the server is never above the last
//     Confirm, answers to keepalives included.
//   - C2 Whole transactions, in commit order, at least once across sessions.
//   - C3 What a copy did not see, the stream brings, and the other way round: a
//     copy takes its lock first, its snapshot then, and its exact-from last.
//   - C4 A missing, invalid or foreign slot is an error and is never re-created
//     silently.
//   - C5 No table enters the publication without a usable identity, and only under
//     a lock that excludes writers (a writer open across the addition would lose
//     its earlier rows for ever).
//   - C6 No transaction of ours waits for a lock while it holds one: a deadlock's
//     victim may be the homeserver.
//
// # Two halves
//
// [Source] is a database seen from outside the stream: it holds one control
// session that is opened again when it broke, and opens others as it needs them.
// Every session pins the settings that change how values print or how long it may
// stand in the way of others (session.go). [Source.Stream] is the stream.
//
// # Who may wait for whom
//
// Locks are taken with NOWAIT, at most one table at a time; a timed wait is short
// and rare (enter.go). While a session of ours holds any lock, the watcher polls
// who waits for us, and frees the waiter by ending our own session (watcher.go).
package cdc
