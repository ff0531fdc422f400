package event

import (
	"testing"

	"filippo.io/edwards25519"
)

// The sum is that of the points one by one, however many there are and whatever the
// factors: zero, the smallest and the largest digits among them.
func TestMultiSum(t *testing.T) {
	var m multiSum
	for _, n := range []int{0, 1, 2, 3, 50, 300, 7} {
		m.begin(n)
		for i := range factorDigits * min(n, 3) {
			m.digits[i] = [3]byte{128, 0, 255}[i/factorDigits] // all 0, all -128, all 127
		}
		want := edwards25519.NewIdentityPoint()
		for i := range n {
			var seed [64]byte
			seed[0], seed[1] = byte(i/2), byte(i/512) // every point twice
			k, err := edwards25519.NewScalar().SetUniformBytes(seed[:])
			if err != nil {
				t.Fatal(err)
			}
			m.points[i].ScalarBaseMult(k)
			z, err := m.factor(i)
			if err != nil {
				t.Fatal(err)
			}
			want.Add(want, new(edwards25519.Point).ScalarMult(z, &m.points[i]))
		}
		if m.total().Equal(want) != 1 {
			t.Errorf("the sum of %d points is another one", n)
		}
	}
}
