// Package mspf writes and reads the homeserver migration archive of MSC2783 in the
// profile that docs/format-mspf.md specifies: what the proposal calls m.* items, and
// im.lifeboat.* items for what it leaves out. It knows Matrix and no particular
// homeserver, and depends on nothing else of Lifeboat, so that other homeservers can
// use it to export and to import.
//
// [Write] streams [Contents] into a directory or a tar, compressed and encrypted with
// age as its name says. [Inspect] says what an archive holds, [Verify] checks all
// that can be checked without a homeserver, and [Read] hands an importer one element
// after the other.
//
// # Invariants
//
//   - M1 Two writes of the same contents are the same bytes before encryption.
//   - M2 An unknown m.* item aborts before the first element is handed out, unless it
//     was accepted by name.
//   - M3 What is not carried is in the report, with counts; that nothing is missing is
//     said explicitly.
//   - M4 Memory is bounded by one file of the archive (32 MiB as written, 256 MiB as
//     read), whatever the archive holds; [Verify] adds a few words for each event of a
//     room.
//   - M5 One-time keys are never written: a restored server that hands out a claimed
//     key makes messages unreadable.
package mspf
