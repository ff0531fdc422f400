// Package chunkstore keeps content-addressed bytes: it cuts, compresses, seals,
// names and verifies them. It knows nothing of PostgreSQL or Matrix and imports
// nothing of ours.
//
// # Invariants
//
//   - S1 A name depends only on content (and its kind), generation and the
//     repository's key.
//   - S2 Put returns nil only when a power cut cannot undo it.
//   - S3 Bytes at a name never change.
//   - S4 Get returns verified bytes or an error.
//   - S5 What is sealed is opened and compared before it is sent.
//   - S6 One key never seals two different frames under one nonce.
//
// # A chunk object, byte by byte
//
// Integers are big-endian; ‖ joins; HMAC is HMAC-SHA-256; 1 and 2 are one byte.
// A chunk lies at the key "chunk/<first 2 hex digits of name>/<64 hex digits of
// name>":
//
//	offset  length  what
//	0       8       magic: the ASCII letters LIFECHNK
//	8       1       format version: 1
//	9       1       kind: r rows, c records, b bytes, i index
//	10      12      nonce
//	22      n       the frame, sealed by AES-256-GCM
//	22+n    16      GCM tag; additional data = bytes 0–9 of the object
//	38+n    32      trailer
//
// with
//
//	d       = SHA-256(kind ‖ plaintext)
//	name    = HMAC(K_name, gen ‖ d)            gen: 16 bytes, zero at first
//	k_enc   = HMAC(K_chunk, 1 ‖ d)
//	k_nonce = HMAC(K_chunk, 2 ‖ d)
//	nonce   = the first 12 bytes of HMAC(k_nonce, frame)
//	trailer = HMAC(K_trailer, name ‖ all bytes before the trailer)
//	K_trailer = HKDF-SHA-256(K_seal, no salt, info "lifeboat/1/trailer", 32 bytes)
//
// K_name and K_chunk open nothing without d, which is kept only in the bodies of
// log entries. The trailer lets anyone who holds K_seal scrub a chunk that he
// cannot read. The generation is in the name and not in the sealed bytes, so one
// content sealed under two generations is one ciphertext: the additional data must
// never depend on it (S6).
//
// # A frame
//
//	offset  length  what
//	0       8       z: the length of the zstd part
//	8       z       one zstd frame (RFC 8878) that declares its content size,
//	                without dictionary
//	8+z     p       zeros, so that the whole frame has a Padmé length
//
// The Padmé length of L (Nikitin et al., "Reducing Metadata Leakage from Encrypted
// Files and Communication with PURBs", 2019) is L rounded up to a multiple of
// 2^(e-s), e = floor(log2 L), s = floor(log2 e) + 1.
//
// [Stored] frames hold raw blocks only: tables that mix values which users choose
// with other people's secrets are not compressed, because the length would tell.
package chunkstore
