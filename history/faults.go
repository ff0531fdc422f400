package history

// faults are the guards that tests can take away one by one; all false in life.
type faults struct {
	acceptAnyPrev  bool // fold does not look at the chain
	existingIsOurs bool // a create takes any object at its number for its own
	reachCondemned bool // an entry may name what is condemned
	skipEnd        bool // Begin does not close the epoch before
}
