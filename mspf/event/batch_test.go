package event

import (
	"crypto/ed25519"
	"fmt"
	"testing"
)

// TestBatch: it finds exactly the signatures that do not fit, wherever they are and
// whatever is wrong with them.
func TestBatch(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	other := ed25519.NewKeyFromSeed(append(make([]byte, 31), 1))
	for _, n := range []int{1, 2, batchFew - 1, batchFew, 200, batchMost, batchMost + 1} {
		for _, bad := range [][]int{nil, {0}, {n - 1}, {0, n / 2}} {
			found := 0
			b := &Batch{Key: key.Public().(ed25519.PublicKey), Bad: func() { found++ }}
			wrong := map[int]bool{}
			for _, i := range bad {
				wrong[i] = true
			}
			for i := range n {
				message := fmt.Append(nil, "message ", i)
				signature := ed25519.Sign(key, message)
				switch {
				case wrong[i] && i%4 == 0:
					signature[3] ^= 1
				case wrong[i] && i%4 == 1:
					signature = signature[:40]
				case wrong[i] && i%4 == 2:
					signature = ed25519.Sign(other, message)
				case wrong[i]:
					message = append(message, '!')
				}
				b.Add(message, signature)
			}
			b.Flush()
			if found != len(wrong) {
				t.Errorf("of %d signatures %d are wrong: it found %d", n, len(wrong), found)
			}
		}
	}
	found := 0
	b := &Batch{Key: nil, Bad: func() { found++ }}
	for range 3 {
		b.Add([]byte("x"), make([]byte, 64))
	}
	if b.Flush(); found != 3 {
		t.Errorf("without a key %d of 3 do not fit", found)
	}
}

func BenchmarkSignatures(b *testing.B) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	message := make([]byte, 600)
	signature := ed25519.Sign(key, message)
	public := key.Public().(ed25519.PublicKey)
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			ed25519.Verify(public, message, signature)
		}
	})
	b.Run("batch", func(b *testing.B) {
		x := &Batch{Key: public, Bad: func() { b.Fatal("it does not fit") }}
		for b.Loop() {
			x.Add(message, signature)
		}
	})
}
