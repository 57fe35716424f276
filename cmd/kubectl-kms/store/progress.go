package store

// A Progress is how far a Read is.
type Progress struct {
	Keys  int64 // that each was called with, older revisions included
	Bytes int64 // of them and their values

	// Done of Total is the part of the work that is done, in a unit of the reader's own.
	// Total is 0 where it is not known, and an estimate otherwise: it may grow.
	Done, Total int64
}
