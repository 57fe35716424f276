package store

// An Error says to a person why a place could not be read, and what to do next.
type Error struct {
	Place  string // as in Reading
	Reason string
	Next   string // what to do, a sentence; empty where nobody knows
	Err    error  // the cause, for programs; may be nil
}

// Error implements error. It ends with what to do next.
func (e *Error) Error() string {
	text := e.Place + ": " + e.Reason
	if e.Next != "" {
		text += ". " + e.Next
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
