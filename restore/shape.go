package restore

import (
	"context"
	"fmt"
	"slices"

	"lifeboat.im/lifeboat/record"
)

// reshape adopts a relation when no row of an older one is left.
func (m *merge) reshape(rel *record.Relation) {
	m.rel, m.adopt, m.last = rel, false, nil
	m.keyed = !m.bag && len(rel.Key) > 0
}

// relate works out how the lines of a record's relation become lines of ours.
func (m *merge) relate(rel *record.Relation) error {
	if rel == m.last {
		return nil
	}
	fit, err := m.compare(rel)
	if err != nil {
		return err
	}
	m.last, m.fit = rel, fit
	return nil
}

func (m *merge) compare(rel *record.Relation) (relationFit, error) {
	if slices.Equal(m.rel.Columns, rel.Columns) {
		if m.keyed && !slices.Equal(m.rel.Key, rel.Key) {
			if rel.Identity != record.Full {
				return relationFit{}, m.hole("its key changed, and old rows are not in the records")
			}
			return relationFit{}, errAsBag
		}
		return relationFit{same: true}, nil
	}
	m.mixed = fmt.Sprintf("its columns changed from (%s) to (%s) between its base and the point", names(m.rel), names(rel))
	m.unknown = true
	fit := relationFit{from: make([]int, len(m.rel.Columns))}
	for i := range m.rel.Columns {
		fit.from[i] = slices.IndexFunc(rel.Columns, func(c record.Column) bool { return c.Name == m.rel.Columns[i].Name })
	}
	return fit, nil
}

func names(rel *record.Relation) string {
	s := ""
	for i, c := range rel.Columns {
		if i > 0 {
			s += ", "
		}
		s += c.Name + " " + c.Type
	}
	return s
}

// images gives the old and the new line of a record in the table's shape, nil
// when absent. They are valid until the next call.
func (m *merge) images(ctx context.Context, r *record.Record) (before, after []byte, err error) {
	if before, err = m.image(ctx, r.Old); err != nil {
		return nil, nil, err
	}
	if !m.fit.same && before != nil {
		before = slices.Clone(before) // image writes into one buffer
	}
	after, err = m.image(ctx, r.New)
	return before, after, err
}

func (m *merge) image(ctx context.Context, l record.Line) ([]byte, error) {
	if l.Absent() {
		return nil, nil
	}
	line := l.Text
	if line == nil {
		var err error
		if line, err = m.lines(ctx, l); err != nil {
			return nil, fmt.Errorf("table %s: read a long row: %w", m.name, err)
		}
		if line == nil {
			line = []byte{}
		}
	}
	if m.fit.same {
		return line, nil
	}
	m.text = m.text[:0]
	m.other = m.other[:0]
	if err := record.Fields(line, len(m.last.Columns), func(_ int, f []byte) { m.other = append(m.other, f) }); err != nil {
		return nil, fmt.Errorf("table %s: %w", m.name, err)
	}
	for i, from := range m.fit.from {
		if i > 0 {
			m.text = append(m.text, '\t')
		}
		if from < 0 {
			m.text = record.AppendNull(m.text)
			continue
		}
		m.text = append(m.text, m.other[from]...)
	}
	if m.text == nil {
		m.text = []byte{}
	}
	return m.text, nil
}
