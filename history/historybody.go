package history

import (
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// historyBody is the body of a history entry: the segments of one epoch, merged.
// A record names its transaction by the index into the transaction table and its
// relation by the index into Relations, which holds every version of each.
type historyBody struct {
	Start     record.LSN        `cbor:"1,keyasint"`
	End       record.LSN        `cbor:"2,keyasint"`
	Relations []record.Relation `cbor:"3,keyasint"`
	// Transactions is the table in pieces, in commit order; Tail is its end.
	Transactions []txPiece            `cbor:"4,keyasint"`
	Tail         []record.Transaction `cbor:"5,keyasint"`
	Tables       []historyTable       `cbor:"6,keyasint"`
	// Sequences are all samples, in the order of the segments.
	Sequences []record.Sequence `cbor:"7,keyasint"`
	// Segments are the positions and ends of the segments that it replaces.
	Segments []mergedSegment `cbor:"8,keyasint"`
}

// txPiece is a run of the transaction table: a records chunk that holds the CBOR
// array of its transactions.
type txPiece struct {
	_           struct{} `cbor:",toarray"`
	Chunk       chunkstore.Ref
	Count       uint64
	First, Last record.LSN // ends of its first and last transaction
}

// historyTable is what happened to one table, in commit order.
type historyTable struct {
	OID    uint32         `cbor:"1,keyasint"`
	Secret bool           `cbor:"2,keyasint,omitempty"`
	Pieces []historyPiece `cbor:"3,keyasint"`
}

// historyPiece is a run of a table's records: Length bytes from Offset of a records
// chunk, which small tables share. It begins with a transaction mark.
type historyPiece struct {
	_              struct{} `cbor:",toarray"`
	Chunk          chunkstore.Ref
	Offset, Length uint64
	Records        uint64
	First, Last    uint64 // indexes of its first and last transaction
}

// mergedSegment is one segment that a history replaces.
type mergedSegment struct {
	_            struct{} `cbor:",toarray"`
	Seq          uint64
	Start, End   record.LSN
	Transactions uint64
	Sequences    uint64 // how many of the samples are its own
}

// transactions counts the table.
func (h *historyBody) transactions() uint64 {
	n := uint64(len(h.Tail))
	for i := range h.Transactions {
		n += h.Transactions[i].Count
	}
	return n
}

// validate says the law of a history that shows without its chunks.
func (h *historyBody) validate(info *historySummary) error {
	if h.Start != info.Start || h.End != info.End || h.transactions() != info.Transactions ||
		uint64(len(h.Segments)) != info.Segments {
		return errorf("the body is not that of part 1")
	}
	at := h.Start
	var txs, records, samples uint64
	for _, g := range h.Segments {
		// Between two segments a position note may have moved on; never back.
		if g.Start < at || g.End < g.Start {
			return errorf("segment %d is (%s, %s] after %s", g.Seq, g.Start, g.End, at)
		}
		at = g.End
		txs += g.Transactions
		if samples += g.Sequences; g.Sequences > uint64(len(h.Sequences)) {
			break
		}
	}
	if samples != uint64(len(h.Sequences)) {
		return errorf("%d samples of sequences, its segments had others", len(h.Sequences))
	}
	for i := range h.Tables {
		last := uint64(0)
		for _, p := range h.Tables[i].Pieces {
			if p.First < last || p.Last < p.First || p.Last >= info.Transactions || p.Records == 0 {
				return errorf("a piece of table %d holds transactions %d to %d after %d", h.Tables[i].OID, p.First, p.Last, last)
			}
			last = p.Last
			records += p.Records
		}
	}
	if at != h.End || txs != info.Transactions || records != info.Records {
		return errorf("it ends at %s with %d transactions and %d records", at, txs, records)
	}
	return nil
}
