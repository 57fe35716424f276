package kmskey_test

import (
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
)

// TestObserveSettlesOnWhatIsSeenOftenEnough tells a key what looks show, one after the
// other, and compares what its name stands for after each.
func TestObserveSettlesOnWhatIsSeenOftenEnough(t *testing.T) {
	t.Parallel()
	const arn = "arn:aws:kms:us-west-2:111122223333:key/"
	type steps []struct{ sees, stands string } // key and material, such as "a1"; "a" where KMS says no material
	for name, c := range map[string]struct {
		atOnce bool
		steps  steps
	}{
		"the first counts at once": {steps: steps{{"a1", "a1"}}},
		"a rotation counts at the third look": {
			steps: steps{{"a1", "a1"}, {"a2", "a1"}, {"a2", "a1"}, {"a2", "a2"}},
		},
		"old and new in turn count for nothing": {
			steps: steps{{"a1", "a1"}, {"a2", "a1"}, {"a1", "a1"}, {"a2", "a1"}, {"a2", "a1"}, {"a1", "a1"}},
		},
		"material that was left never comes back": {
			steps: steps{{"a1", "a1"}, {"a2", "a1"}, {"a2", "a1"}, {"a2", "a2"}, {"a1", "a2"}, {"a1", "a2"}, {"a1", "a2"}, {"a1", "a2"}},
		},
		"nor at once": {atOnce: true, steps: steps{{"a1", "a1"}, {"a2", "a2"}, {"a1", "a2"}, {"a1", "a2"}}},
		"an answer without material clears nothing": {
			steps: steps{{"a1", "a1"}, {"a", "a1"}, {"a", "a1"}, {"a", "a1"}, {"a", "a1"}},
		},
		"and does not interrupt a rotation": {
			steps: steps{{"a1", "a1"}, {"a2", "a1"}, {"a", "a1"}, {"a2", "a1"}, {"a2", "a2"}},
		},
		"another key counts at the third look": {
			steps: steps{{"a1", "a1"}, {"b1", "a1"}, {"b1", "a1"}, {"b1", "b1"}},
		},
		"a key that was left may come back": {
			steps: steps{{"a1", "a1"}, {"b1", "a1"}, {"b1", "a1"}, {"b1", "b1"}, {"a1", "b1"}, {"a1", "b1"}, {"a1", "a1"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := kmskey.New(kmskey.Config{Name: "alias/k"})
			for i, step := range c.steps {
				k.Observe(kmskey.Observation{ARN: keyref.ARN(arn + step.sees[:1]), Material: step.sees[1:]}, c.atOnce, "")
				r := k.Resolution()
				if stands := string(r.ARN[len(arn):]) + r.State.Material; stands != step.stands {
					t.Fatalf("look %d shows %s: the name stands for %s, want %s", i+1, step.sees, stands, step.stands)
				}
			}
		})
	}
}
