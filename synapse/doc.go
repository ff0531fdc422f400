// Package synapse is what a Synapse homeserver is made of: its tables and where
// their rows go in an archive, its sequences, the files beside the database, and
// what a copy of it needs before it may be started. It is the only place, with
// mspf, that knows a Matrix table; all of it is data and text, so that this room
// needs no PostgreSQL client.
package synapse
