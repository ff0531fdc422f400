package synapse

// areas are the tables by what they are about, one file each.
func areas() [][]Table {
	return [][]Table{
		eventsTables(),
		stateTables(),
		roomsTables(),
		usersTables(),
		sessionsTables(),
		devicesTables(),
		pushTables(),
		mediaTables(),
		federationTables(),
		syncTables(),
		directoryTables(),
		serverTables(),
		absentTables(),
	}
}
