// Package homeserver runs a real Synapse and talks to it as clients do. Tests,
// the demonstration and the figures share it, so it knows no testing.T: everything
// that can fail returns an error.
//
// A [Server] is one homeserver with its folder: configuration, signing key, log,
// media. Its database is the caller's. The processes end with [Server.Stop], with
// [Server.Kill], and with the program that started them however that ends. A
// [Client] is one signed-in device of one user; [Load] is many of them at work.
//
// Synapse comes from .tools at the root of the repository (make tools): wheels
// only, run by python3 with PYTHONPATH.
package homeserver
