// Package archive says what a Synapse's database is as a migration archive: which
// rows become which element of which item (package mspf). It reads rows and nothing
// else, so that an export needs neither a database nor a homeserver.
//
// # How rows become elements
//
// Rows come table by table, in an order that has nothing to do with the elements. So
// each item sorts what it needs by the element's own key and puts together what meets
// (package spill): the memory is that of the sorters and of one element, and a few
// words for each room and for each event of one room.
//
// The columns are those of Synapse's schema 94; of an older schema a column may be
// missing, which is as if it were NULL everywhere. Which table feeds which item is
// said once, in package synapse.
//
// # Invariants
//
//   - X1 What was taken back is in no item, also where Synapse still keeps it for a
//     while (a week by default): not beside an event, not in an invitation, not as text.
//     Events that cannot be redacted are left out and counted. The database's own rows,
//     which the caller adds, are as they were stored.
//   - X2 Each event comes after those of its room that it names, whatever its depth
//     says; or the archive does not claim that order, and the report says why.
//   - X3 Each event is held against its id, its content hash and, where a user of this
//     server sent it, the signature of each known key. What does not fit is carried as
//     it is, and counted.
//   - M3 (package mspf) Each table of package synapse that feeds an item is read for it,
//     or its rows are counted in the report.
package archive
