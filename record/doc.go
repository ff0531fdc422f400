// Package record holds the values that flow through Lifeboat and their bytes:
// positions, sources, relations, records, transactions, segments and digests.
// It knows neither a PostgreSQL client nor a store, and imports nothing of ours.
//
// # Invariants
//
//   - R1 Marshal(Unmarshal(b)) == b, or an error. Nothing panics, and nothing is
//     allocated beyond lengths that are declared and bounded.
//   - R2 Magic, version and kind come first in a stored object (package history
//     writes them); an unknown version is [ErrVersion], never [ErrCorrupt].
//   - R3 A segment holds whole transactions in commit order, and the Start of the
//     next segment is the End of the one before.
//   - R4 A relation precedes its first record in the same segment.
//   - R5 An unchanged TOAST value, NULL and the empty string are three things; a
//     stored record is complete (replica identity full) or says which columns it
//     does not know (replica identity minimal).
//   - R6 Golden files of old versions decode for ever, from format 1 on, to the same values and back to the same bytes.
//
// # Rows
//
// A row at rest is a [Line]: one line of PostgreSQL's COPY text format without
// its newline (PostgreSQL documentation, "COPY", section "Text Format"), columns
// in the order of their [Relation]. Only one escape is ours: a field that is
// exactly \U is a value that the source did not send, see [Unknown].
package record
