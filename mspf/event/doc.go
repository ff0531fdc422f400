// Package event knows what the Matrix room versions 1 to 12 say of an event's
// identity: which of its keys survive a redaction, how its id is spelled, what its
// hashes and signatures cover. The rules are data ([Versions]); the functions of
// this package read them. It decides nothing about authorization.
//
// An event is the tree that [Parse] gives: map[string]any, []any, string, bool,
// nil, int64, *big.Int and float64, and nothing else. The same tree is what the
// CBOR of an archive decodes to.
//
// # Sources
//
// The Matrix specification, "Room Versions" (one page per version: redactions,
// event ids), its server-server API ("Signing Events") and its appendices
// ("Canonical JSON"). The tests ask Synapse's own Python for every room version.
//
// # Why this is not mautrix
//
// mautrix's canonical JSON keeps numbers and duplicate keys as they were spelled
// and writes control characters with upper-case hexadecimal digits; Synapse, whose
// hashes and signatures have to come out, does neither. A test compares the two
// where they agree and pins where they do not. Its federation/pdu needs an
// experiment flag of the Go compiler.
package event
