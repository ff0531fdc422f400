package history

// faults are the guards that tests can take away one by one; all false in life.
type faults struct {
	acceptAnyPrev    bool // fold does not look at the chain
	dropLastSegment  bool // Merge leaves out what the last segment holds
	keyBeforeHistory bool // Merge forgets the key first
	existingIsOurs   bool // a create takes any object at its number for its own
	forgetSegments   bool // a reader leaves out what comes after the histories
	reachCondemned   bool // an entry may name what is condemned
	skipEnd          bool // Begin does not close the epoch before
}
