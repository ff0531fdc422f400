package history

// faults are the guards that tests can take away one by one, to see that the model
// check misses none of them; all false in life.
type faults struct {
	acceptAnyPrev     bool // fold does not look at the chain
	ackUnwritten      bool // Segment returns nil although its create failed
	checkpointForgets bool // a checkpoint leaves out the segments that no history covers
	dropLastSegment   bool // Merge leaves out what the last segment holds
	existingIsOurs    bool // a create takes any object at its number for its own
	forgetSegments    bool // a reader leaves out what comes after the histories
	keyBeforeHistory  bool // Merge forgets the key first
	otherNumber       bool // a create in doubt goes on with the next number
	reachCondemned    bool // an entry may name what is condemned
	replaceKey        bool // an opener replaces a key that is there
	skipEnd           bool // Begin does not close the epoch before
	unreadMaintenance bool // a writer steps over a maintenance entry without reading it
}
