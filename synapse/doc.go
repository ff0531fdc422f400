// Package synapse is what a Synapse homeserver is made of: its tables and where
// their rows go in an archive, its sequences, the files beside the database, and
// what a copy of it needs before it may be started. It is the only place, with
// mspf, that knows a Matrix table; all of it is data and text, so that this room
// needs no PostgreSQL client.
//
// # Invariants
//
//   - Y1 Knowledge is data with its source cited, and it is complete: every table and
//     sequence of the pinned Synapse is named with columns that exist. A table that is
//     not named is captured in full.
//   - Y2 A table is left out of an archive only when its rows can be rebuilt from tables
//     that are in it, or are worthless or harmful in another server; each says which.
//     The backup leaves out no table.
//   - Y3 A sequence is restored above every value that any column it feeds ever held.
package synapse
