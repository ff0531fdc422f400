package history

import "lifeboat.im/lifeboat/chunkstore"

// Store gives the chunk store that the view's bodies point into: what a reader
// opens the pieces of a base with.
func (v *View) Store() *chunkstore.Store { return v.log.Store() }
