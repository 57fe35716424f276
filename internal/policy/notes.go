package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// takenAway is what nobody may do under a key's policy, as administer has it.
const takenAway = "a key's policy takes the place of all that the key allowed before: nobody may then disable the key, schedule its deletion, " +
	"turn off its rotation, create grants, or import or delete its material; whoever has to changes the policy first (kms:PutKeyPolicy)"

// Notes are what to know of documents before they are installed.
func Notes(documents []Document) []string {
	var notes []string
	if slices.ContainsFunc(documents, func(d Document) bool { return d.Kind == Key }) {
		notes = append(notes, takenAway)
	}
	for _, d := range documents {
		if size, most, where := size(d); size > most {
			notes = append(notes, fmt.Sprintf("%s has %d characters, and AWS takes %s: give the program fewer keys, or put its policy in parts", d.Name, size, where))
		}
	}
	for i, alias := range documents {
		if alias.Kind != Key || !strings.Contains(alias.For, "alias/") {
			continue
		}
		home, _, _ := strings.Cut(alias.For, "alias/")
		for j, other := range documents {
			if other.Kind == Key && (strings.HasPrefix(other.For, home+"key/") || j > i && strings.HasPrefix(other.For, home+"alias/")) {
				notes = append(notes, fmt.Sprintf("where %s and %s are one key, put the statements of %s and %s into one policy: a key has one, and installing the second would take away what the first allows", alias.For, other.For, alias.Name, other.Name))
			}
		}
	}
	return notes
}

// size is a document's size, and what AWS takes at most, where white space does
// not count.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
// https://docs.aws.amazon.com/kms/latest/developerguide/resource-limits.html
// https://docs.aws.amazon.com/vpc/latest/privatelink/vpc-limits-endpoints.html
func size(d Document) (got, most int, where string) {
	text, err := json.Marshal(d.Policy)
	if err != nil {
		return 0, 0, ""
	}
	switch d.Kind {
	case Identity:
		most, where = 6144, "6144 in a managed policy, 10240 in a role's inline ones together"
	case Trust:
		most, where = 2048, "2048 unless the quota was raised"
	case Key:
		most, where = 32_768, "32768"
	case Endpoint:
		most, where = 20_480, "20480"
	}
	return len(text), most, where
}
