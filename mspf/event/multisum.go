package event

import (
	"crypto/rand"

	"filippo.io/edwards25519"
)

// multiSum is Σz·P of many points P with random factors z of 128 bits, by Pippenger's
// method: for each of the digits of the factors the points are put into the bucket of
// their digit, and the buckets are summed up. It does not hide the factors.
//
// A factor is Σd·256^j of 16 digits d from -128 to 127: all 2^128 of them are different,
// and half the buckets are enough, because a point is taken away as fast as it is added.
type multiSum struct {
	points  []edwards25519.Point
	digits  []byte // of each point 16, plus 128, the lowest first
	buckets [129]edwards25519.Point
	used    [129]bool
	z       edwards25519.Scalar
	offset  *edwards25519.Scalar // Σ128·256^j
}

const factorDigits = 16

// begin makes factors for n points.
func (m *multiSum) begin(n int) {
	if cap(m.points) < n {
		m.points, m.digits = make([]edwards25519.Point, n), make([]byte, factorDigits*n)
	}
	m.points, m.digits = m.points[:n], m.digits[:factorDigits*n]
	rand.Read(m.digits) // crypto/rand: never returns an error
}

// factor gives the one of a point, until the next.
func (m *multiSum) factor(i int) (*edwards25519.Scalar, error) {
	var wide [32]byte
	if m.offset == nil {
		for j := range factorDigits {
			wide[j] = 128
		}
		offset, err := edwards25519.NewScalar().SetCanonicalBytes(wide[:])
		if err != nil {
			return nil, err
		}
		m.offset = offset
	}
	copy(wide[:], m.digits[factorDigits*i:factorDigits*(i+1)])
	z, err := m.z.SetCanonicalBytes(wide[:])
	if err != nil {
		return nil, err
	}
	return z.Subtract(z, m.offset), nil
}

// total gives the sum.
func (m *multiSum) total() *edwards25519.Point {
	sum := edwards25519.NewIdentityPoint()
	for j := factorDigits - 1; j >= 0; j-- {
		for range 8 {
			sum.Add(sum, sum)
		}
		m.fill(j)
		// Σi·bucket(i), as a sum of sums from the highest down.
		above, all := edwards25519.NewIdentityPoint(), edwards25519.NewIdentityPoint()
		for i := len(m.buckets) - 1; i > 0; i-- {
			if m.used[i] {
				above.Add(above, &m.buckets[i])
			}
			all.Add(all, above)
		}
		sum.Add(sum, all)
	}
	return sum
}

// fill puts each point into the bucket of its digit.
func (m *multiSum) fill(digit int) {
	clear(m.used[:])
	for i := range m.points {
		p, d := &m.points[i], int(m.digits[factorDigits*i+digit])-128
		b := max(d, -d)
		switch {
		case d == 0:
		case !m.used[b] && d > 0:
			m.buckets[b].Set(p)
			m.used[b] = true
		case !m.used[b]:
			m.buckets[b].Negate(p)
			m.used[b] = true
		case d > 0:
			m.buckets[b].Add(&m.buckets[b], p)
		default:
			m.buckets[b].Subtract(&m.buckets[b], p)
		}
	}
}
