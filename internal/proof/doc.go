// Package proof holds the whole product, from a running server to a restored
// database, against an oracle that is not ours: PostgreSQL's own recovery to the
// same position, and PostgreSQL's own test_decoding for the list of transactions.
//
// The agent runs as a child process, so that SIGKILL and SIGSTOP are real. Nothing
// here is part of the program; the package holds tests only.
package proof
