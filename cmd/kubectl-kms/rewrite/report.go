package rewrite

// What a [Report] says it is. deploy/kubectl-kms-migrate.schema.json describes it.
const (
	APIVersion = "kms.aws-encryption-provider.sigs.k8s.io/v1"
	Kind       = "Migration"
)

// A Result is how a [Run] ended.
type Result string

// Results.
const (
	Clean       Result = "nothing left"
	LeftOver    Result = "left"        // something needs a person
	NotKnown    Result = "not known"   // not everything was read, or API servers do not agree
	NotProved   Result = "not proved"  // all was sent, and no etcd was read
	Refused     Result = "refused"     // nothing was sent
	Interrupted Result = "interrupted" // by whoever started it
	Stopped     Result = "stopped"     // after too many failures in a row
	Planned     Result = "planned"     // a dry run
)

// A Report says what was done, and what is left. Every text in it is safe to print.
type Report struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	DryRun     bool   `json:"dryRun"`

	APIServers string            `json:"apiServers"` // what they write under
	RestsOn    string            `json:"restsOn"`    // how that is known
	Keys       map[string]string `json:"keys"`       // KMS v2 provider → "sha256:" of the key_id that is written
	Read       string            `json:"read"`       // what the last list rests on

	Plan      []PlanRow       `json:"plan"`
	Admission AdmissionReport `json:"admission"`
	Rounds    []Round         `json:"rounds"`

	Stale     int64    `json:"stale"`     // objects that any list had
	Rewritten int64    `json:"rewritten"` // of these: no longer stale, by this run
	ByOthers  int64    `json:"byOthers"`  // no longer stale, by somebody else's write
	Fresh     int64    `json:"fresh"`     // in doubt, and fresh as the API server says
	Gone      int64    `json:"gone"`      // deleted meanwhile
	LeftCount int64    `json:"leftCount"`
	Left      []Left   `json:"left"`    // sorted by path
	Changed   []Change `json:"changed"` // sorted by path

	NotCompared int64 `json:"notCompared"` // written, and not looked at for a change

	Result  Result   `json:"result"`
	Reasons []string `json:"reasons"` // why it is not "nothing left"
	Text    string   `json:"text"`    // all of it, in one sentence
}

// A PlanRow counts what will be sent of a resource.
type PlanRow struct {
	Resource string `json:"resource"`
	Under    string `json:"under"` // what protects it now
	Objects  int64  `json:"objects"`
	InDoubt  int64  `json:"inDoubt,omitempty"` // of these: only the API server knows whether they are stale
	// Orphaned says why none of them can be sent; empty where they can.
	Orphaned string `json:"orphaned,omitempty"`
}

// An AdmissionReport says what may change objects as they are written.
type AdmissionReport struct {
	Known    bool     `json:"known"`
	Why      string   `json:"why,omitempty"` // it is not
	Mutating []string `json:"mutating"`
}

// A Round counts what a round's requests came to. An object may be counted as a
// conflict several times, and otherwise once.
type Round struct {
	Objects    int64 `json:"objects"`
	Written    int64 `json:"written"`
	NotWritten int64 `json:"notWritten"` // the API server took it for fresh
	Conflicts  int64 `json:"conflicts"`  // somebody else wrote it, or it was made again
	ByOthers   int64 `json:"byOthers"`   // and so it is no longer stale
	Gone       int64 `json:"gone"`
	Refused    int64 `json:"refused"` // a 4xx answer
	Failed     int64 `json:"failed"`  // a time-out, a 5xx answer, no connection
	Changed    int64 `json:"changed"`
}

// An Outcome is why an object is left.
type Outcome string

// Outcomes.
const (
	OutcomeRefused    Outcome = "refused"     // by the API server or admission
	OutcomeFailed     Outcome = "failed"      // no answer, or a 5xx one
	OutcomeConflict   Outcome = "conflict"    // others write it all the time
	OutcomeNotWritten Outcome = "notWritten"  // the API server takes it for fresh
	OutcomeWritten    Outcome = "writtenBack" // written, and stale again
	OutcomeMismatch   Outcome = "mismatch"    // the API server has another store
	OutcomeOrphaned   Outcome = "orphaned"    // no API server serves the resource
	OutcomeUnreadable Outcome = "unreadable"  // no provider of the configuration reads it
	OutcomeUnnamed    Outcome = "unnamed"     // no request can name it
	OutcomeNotSent    Outcome = "notSent"     // it was found late, or the run ended
)

// A Left is an object that is still stale.
type Left struct {
	Path     string  `json:"path"`
	Resource string  `json:"resource"`
	Outcome  Outcome `json:"outcome"`
	Cause    string  `json:"cause"`
	Next     string  `json:"next"`
}

// A Change is an object that is longer or shorter than before it was written. A change
// of the same length shows nowhere.
type Change struct {
	Path   string `json:"path"`
	Before Bytes  `json:"before"`
	After  Bytes  `json:"after"`
}

// Bytes are a [Size] in a report.
type Bytes struct {
	Least int `json:"least"`
	Most  int `json:"most"`
}
