// Package house holds the rules of the repository as ordinary tests: which room
// may use which, what only some rooms may do, what is documented, and that every
// invariant has its test. A rule that fails says why it is there.
package house
