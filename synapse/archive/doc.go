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
package archive
