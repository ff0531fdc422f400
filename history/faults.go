package history

// faults are the guards that tests can take away one by one; all false in life.
type faults struct{}
