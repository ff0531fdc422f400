// Command lifeboat backs up PostgreSQL databases continuously and restores any
// past commit. This package parses flags and configuration, calls the packages
// that do the work, and prints; it decides nothing itself.
//
// One file holds one subcommand, beginning with its help. Besides them: main.go
// (signals and exit), root.go (global flags), exit.go (which error ends with
// which code, and what to do about it), config*.go (the configuration),
// open.go (repository, keys and state), print.go and progress.go (how facts look).
package main
