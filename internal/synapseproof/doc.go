// Package synapseproof holds the whole product on a real homeserver: Synapse under
// load, captured, restored, compared with PostgreSQL's own recovery, and booted
// again for real clients.
//
// Its tests share one shape, the lab (lab_test.go): a cluster, a Synapse on it, a
// repository and an agent that runs as a child process, so that SIGKILL is real.
// Nothing here is part of the program; the package holds tests only.
package synapseproof
