// Package s3 keeps a repository's objects in a bucket of an S3 server.
//
// The object with key K is the object <prefix>/K of the bucket, stored by one PUT,
// however large. Nothing is renamed, copied or overwritten.
//
// # Where it lies
//
//	s3://host[:port]/bucket[/prefix]        over TLS
//	s3+http://host[:port]/bucket[/prefix]   without TLS, to this host only (127.0.0.1, ::1, localhost)
//
// # Why Create is atomic and happens once
//
// A PUT carries If-None-Match: *, the SHA-256 of its body in the signature and its MD5,
// so a server stores the whole body or nothing, and only where nothing is. It also
// carries, as metadata, a number that is drawn for each Create and the SHA-256 once
// more, against which Get holds what it reads.
//
//	the server says            what it can mean                       what Create does
//	200, with an ETag          stored                                 nil
//	200, an error inside       not stored, or not known               asks, then again
//	412                        somebody's object, or our own whose    asks
//	                           reply was lost
//	409                        a race with another create or remove   asks, then again
//	500, 503, 429, …           stored or not                          asks, then again
//	nothing, or half a reply   stored or not                          asks, then again
//	another refusal            not stored                             returns it
//
// To ask is to read the object's metadata: with our number it is ours and Create returns
// nil, with another one or none it is [chunkstore.ErrExists], and when there is none the
// PUT is sent again, with the same bytes. Objects of 64 KiB and more are asked for before the
// first PUT too, so that what is there is not sent again. So one Create never stores two different
// things, and of many creators one gets nil, whatever replies are lost.
//
// # Retries and time
//
// Nobody above this package retries, nor does the library below it. A try that fails for a
// passing reason is repeated after a growing pause until [Timeouts].Retry is over; then
// the error is [ErrUnavailable]. Each try is bounded: connecting, waiting for the reply,
// standing still, and in all by its size ([Timeouts]).
//
// # What the server must do
//
// Decide If-None-Match: * atomically, show at once what was stored, list in the byte
// order of the keys. Many servers claim it; [chunkstore.Probe] tries it. The identity
// needs s3:GetObject, s3:PutObject and s3:ListBucket (without the last a missing object
// is "denied" instead of "not found"); only pruning needs s3:DeleteObject.
package s3
