package evidence

// A State says how a key is doing. Its text is the value of the metrics label
// "state", so a name never changes.
type State string

// States of a key. A bug counts as an outage.
const (
	Unknown     State = "unknown" // not reached yet
	Healthy     State = "healthy"
	Refused     State = "refused"
	Outage      State = "outage"
	Credentials State = "credentials"
	// Authorised is the state of a key that only reads, where KMS says that it would
	// allow Decrypt, and no data of the key was read. AWS documents that such a
	// question checks authorization: a disabled key may pass it.
	Authorised State = "authorised"
)

// States returns every state of a provider, in the order in which a reader of
// metrics wants them.
func States() []State { return []State{Unknown, Healthy, Refused, Outage, Credentials} }

// KeyStates returns every state of a single key, in the order in which a reader of
// metrics wants them.
func KeyStates() []State { return []State{Unknown, Healthy, Authorised, Refused, Outage, Credentials} }

// Fails reports whether a key in this state does not do its work.
func (s State) Fails() bool { return s == Refused || s == Outage || s == Credentials }

// rank orders states by how bad they are.
func (s State) rank() int {
	switch s {
	case Refused:
		return 3
	case Credentials:
		return 2
	case Outage:
		return 1
	case Healthy, Unknown, Authorised:
	}
	return 0
}
