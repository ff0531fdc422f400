package fs

import (
	"testing"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Create(t.TempDir() + "/deep/store")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	storetest.Conformance(t, func(t *testing.T) chunkstore.Backend { return newStore(t) })
}
