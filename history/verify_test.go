package history

import (
	"testing"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore/storetest"
)

// Verify finds a flipped bit in every byte of every object of a small repository;
// without the operator's key in every byte but those of keys/.
func TestVerifyFindsEveryFlip(t *testing.T) {
	w := newWritten(t)
	step := 1
	if testing.Short() {
		step = 61
	}
	n := 0
	for _, key := range w.mem.Keys() {
		whole := w.mem.Object(key)
		for off := n % step; off < len(whole); off += step {
			bad := append([]byte(nil), whole...)
			bad[off] ^= 1 << (off % 8)
			w.mem.Replace(key, bad)
			n++
			r, err := Verify(t.Context(), w.repo, w.secrets, VerifyOptions{Operators: []age.Identity{w.operator}})
			if err != nil || len(r.Damage) == 0 {
				t.Fatalf("byte %d of %s is flipped: %+v, %v", off, key, r, err)
			}
			if n%17 != 0 || key == "keys/1.age" {
				continue
			}
			r, err = Verify(t.Context(), w.repo, w.secrets.Agent(), VerifyOptions{})
			if err != nil || len(r.Damage) == 0 {
				t.Fatalf("byte %d of %s is flipped, without the identity: %+v, %v", off, key, r, err)
			}
		}
		w.mem.Replace(key, whole)
	}
	t.Logf("%d flips in %d objects", n, len(w.mem.Keys()))
}

// A plaintext repository is the same but for its bundle of secrets in clear.
func TestPlaintextRepository(t *testing.T) {
	ctx, mem := t.Context(), storetest.NewMemory(t)
	r, s, err := Create(ctx, mem, CreateOptions{Plaintext: true})
	must(t, err)
	got, err := r.Unlock(ctx)
	must(t, err)
	if !sameSecrets(got, s) || !got.CanRead() {
		t.Error("other secrets")
	}
	whole := mem.Object(clearKey)
	for off := range whole {
		bad := append([]byte(nil), whole...)
		bad[off] ^= 4
		mem.Replace(clearKey, bad)
		if rep, err := Verify(ctx, r, s, VerifyOptions{}); err != nil || len(rep.Damage) == 0 {
			t.Fatalf("byte %d of %s is flipped: %+v, %v", off, clearKey, rep, err)
		}
	}
}
