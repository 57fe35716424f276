package inquiry

import (
	"encoding/json"
	"regexp"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
)

var graceForm = regexp.MustCompile(`; Status stays ok until (\S+)$`)

// A Grace is what the outage grace does: for a while, Status stays ok although KMS
// cannot be reached.
type Grace struct {
	State GraceState
	Until string // RFC 3339; "" where it does not run, or the health port was not asked
}

// MarshalJSON writes the documented form.
func (g Grace) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		State GraceState `json:"state"`
		Until *string    `json:"until"`
	}{g.State, measured(g.Until, g.Until != "")})
}

// A GraceState says what a grace does. Its text is part of the JSON form.
type GraceState string

// What a grace does.
const (
	GraceIdle    GraceState = "idle"    // nothing fails
	GraceRunning GraceState = "running" // KMS fails, and Status is still ok
	GraceOver    GraceState = "over"    // KMS fails, and Status says so
	GraceNone    GraceState = "none"    // what fails gets none: a refusal, or KMS was not reached since the start
)

// String returns what the grace does, for a line.
func (g Grace) String() string {
	switch g.State {
	case GraceRunning:
		text := "runs: KMS fails, and Status stays ok"
		if g.Until == "" {
			return text + " until it ends; --health-address tells when"
		}
		return text + " until " + g.Until
	case GraceOver:
		return "is over: Status reports the failure, and /readyz of API servers fails"
	case GraceNone:
		return "does not apply: it is for outages of KMS that begin while the program runs"
	case GraceIdle:
	}
	return "is not used"
}

// weigh notes what a call's failure means for the grace. It is for calls alone, which
// use the key that writes.
func (r *Report) weigh(id string) {
	switch classOf(id) {
	case cause.Outage, cause.Credentials, cause.Bug:
		r.failing = true
	case cause.Refused: // Status says so as soon as it is confirmed
		r.refused = true
	case cause.BadData, cause.Cancelled, cause.Overload, cause.Node:
	}
}

// grace is nil where Status gave no answer of the program's.
func (r *Report) grace() *Grace {
	switch {
	case r.refusedStatus, r.refused:
		return &Grace{State: GraceNone}
	case !r.gaveStatus:
		return nil
	case r.Healthz != provider.OK:
		return &Grace{State: GraceOver}
	case r.failing:
		return &Grace{State: GraceRunning, Until: r.graceEnd()}
	}
	return &Grace{State: GraceIdle}
}

// graceEnd is when the grace of the provider behind the socket ends, as the health
// port tells; "" where it does not.
func (r *Report) graceEnd() string {
	end := ""
	for _, line := range r.Readyz {
		if strings.HasPrefix(line, "provider ") {
			end = ""
			if m := graceForm.FindStringSubmatch(line); m != nil {
				end = m[1]
			}
		}
		if line == "  socket "+r.Socket {
			return end
		}
	}
	return ""
}
