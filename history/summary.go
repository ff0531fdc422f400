package history

import (
	"fmt"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// Summary is part 1 of an entry: one deterministic CBOR map under K_seal. Exactly
// the field of its kind is set.
type Summary struct {
	// Maintenance: written by a process beside the agent; the agent steps over it.
	Maintenance bool `cbor:"1,keyasint,omitempty"`
	// Reach names the chunks that the body points to; a list over 1 MiB lies in index
	// chunks, each the names one after the other.
	Reach      []chunkstore.Name `cbor:"2,keyasint,omitempty"`
	ReachIndex []chunkstore.Ref  `cbor:"3,keyasint,omitempty"`
	Epoch      *epochSummary     `cbor:"4,keyasint,omitempty"`
	End        *endSummary       `cbor:"5,keyasint,omitempty"`
	Segment    *segmentSummary   `cbor:"6,keyasint,omitempty"`
	Base       *baseSummary      `cbor:"7,keyasint,omitempty"`
	History    *historySummary   `cbor:"8,keyasint,omitempty"`
	Checkpoint *State            `cbor:"9,keyasint,omitempty"`
	Schema     *schemaSummary    `cbor:"10,keyasint,omitempty"` // kind note
	Note       *Note             `cbor:"11,keyasint,omitempty"`
}

type epochSummary struct {
	Timeline      uint32     `cbor:"1,keyasint"`
	Slot          string     `cbor:"2,keyasint,omitempty"`
	ServerVersion int        `cbor:"3,keyasint"`
	XMax          record.XID `cbor:"4,keyasint"`
	Durable       record.LSN `cbor:"5,keyasint"`
	Host          string     `cbor:"6,keyasint,omitempty"`
	// Wrapped is the epoch's key, an age file to the repository's identity.
	Wrapped []byte `cbor:"7,keyasint"`
	// Follows is the `end` that this epoch follows, absent in epoch 0; its hash is the
	// header's.
	Follows    *Position     `cbor:"8,keyasint,omitempty"`
	Checkpoint checkpointRef `cbor:"9,keyasint"`
	Parent     *Parent       `cbor:"10,keyasint,omitempty"`
	// Condemned are the condemned sets of the repository's other logs, in a new lineage.
	Condemned []condemned `cbor:"11,keyasint,omitempty"`
	// Check is the first half of HKDF(epoch key, "check").
	Check [16]byte `cbor:"12,keyasint"`
}

// condemned is one prune run's set.
type condemned struct {
	_        struct{} `cbor:",toarray"`
	Gen      chunkstore.Gen
	Prefixes [][8]byte
}

type endSummary struct {
	Durable record.LSN `cbor:"1,keyasint"`
	Host    string     `cbor:"2,keyasint,omitempty"`
}

type segmentSummary struct {
	Start         record.LSN  `cbor:"1,keyasint"`
	End           record.LSN  `cbor:"2,keyasint"`
	First         record.Time `cbor:"3,keyasint"`
	Last          record.Time `cbor:"4,keyasint"`
	Transactions  uint64      `cbor:"5,keyasint"`
	Records       uint64      `cbor:"6,keyasint"`
	SchemaCertain record.LSN  `cbor:"7,keyasint"`
}

type baseSummary struct {
	Table       uint32     `cbor:"1,keyasint"`
	Name        string     `cbor:"2,keyasint"`
	RecordsFrom record.LSN `cbor:"3,keyasint"`
	ExactFrom   record.LSN `cbor:"4,keyasint"`
	Rows        int64      `cbor:"5,keyasint"`
	Bytes       int64      `cbor:"6,keyasint"`
	// Time is when the copy was finished, by the writer's clock.
	Time record.Time `cbor:"7,keyasint,omitempty"`
	// Proved: it had the digest that the records before it predicted.
	Proved bool `cbor:"8,keyasint,omitempty"`
}

type historySummary struct {
	KeyEpoch     uint64      `cbor:"1,keyasint"`
	Start        record.LSN  `cbor:"2,keyasint"`
	End          record.LSN  `cbor:"3,keyasint"`
	First        record.Time `cbor:"4,keyasint"`
	Last         record.Time `cbor:"5,keyasint"`
	Transactions uint64      `cbor:"6,keyasint"`
	Records      uint64      `cbor:"7,keyasint"`
	Segments     uint64      `cbor:"8,keyasint"`
	Bytes        int64       `cbor:"9,keyasint"`
}

type schemaSummary struct {
	From        record.LSN `cbor:"1,keyasint"`
	Fingerprint [32]byte   `cbor:"2,keyasint"`
}

// kind says which kind of entry the summary is for, 0 when it is for none.
func (s *Summary) kind() Kind {
	var k Kind
	n := 0
	for _, c := range []struct {
		set bool
		k   Kind
	}{
		{s.Epoch != nil, KindEpoch},
		{s.End != nil, KindEnd},
		{s.Segment != nil, KindSegment},
		{s.Base != nil, KindBase},
		{s.History != nil, KindHistory},
		{s.Checkpoint != nil, KindCheckpoint},
		{s.Schema != nil, KindNote},
		{s.Note != nil, KindNote},
	} {
		if c.set {
			k, n = c.k, n+1
		}
	}
	if n != 1 {
		return 0
	}
	return k
}

// parseSummary reads part 1 of an entry of this kind.
func parseSummary(k Kind, b []byte) (Summary, error) {
	var s Summary
	if err := record.Unmarshal(b, &s); err != nil {
		return s, err
	}
	if s.kind() != k {
		return s, fmt.Errorf("part 1 is not that of kind %s: %w", k, record.ErrCorrupt)
	}
	if s.Note != nil {
		return s, s.Note.validate()
	}
	return s, nil
}
