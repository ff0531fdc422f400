package archive

import "lifeboat.im/lifeboat/mspf"

func (b *builder) prepareAccounts(*mspf.Contents) error { return nil }
