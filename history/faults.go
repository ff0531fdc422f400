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

	bareBegin       bool // a new lineage does not look for condemnations once it is there
	condemnOneLog   bool // a prune condemns in one log only
	dropPoints      bool // retention forgets marks, pins and rounds
	dropWindowBase  bool // retention drops the bases that its window begins with
	forgedNotes     bool // a note that takes away counts without its MAC
	noGrace         bool // a prune deletes as soon as it may
	noSecondLook    bool // a prune deletes what it condemned, whatever reaches it now
	shortHistory    bool // segments go although their history does not hold them
	skipAlarm       bool // a prune goes on while an alarm is open
	trustListing    bool // a prune knows only what one listing shows
	undeleteTooLate bool // an undelete counts while it deletes
	unseenFailure   bool // a prune is done although objects are left
	youngOrphans    bool // orphans are condemned whatever their age
}
