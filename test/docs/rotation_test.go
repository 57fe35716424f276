package docs_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// rotationDays is the period that this project advises: AWS's default. KMS keeps all
// earlier key material, so that a shorter one protects nothing that is stored.
const rotationDays = "365 days"

// A period is how often, or a number of days.
var (
	aboutRotation = regexp.MustCompile(`(?i)\brotat`)
	period        = regexp.MustCompile(`(?i)\b(?:every|each|a|per) (?:day|week|month|quarter|half[- ]year|year)\b|\b(?:daily|weekly|monthly|quarterly|yearly|annual|annually)\b` +
		`|\b[0-9][0-9,]*[ -](?:days?|weeks?|months?|years?)\b|rotation-period-in-days[= ]+[0-9]+|RotationPeriodInDays\W+[0-9]+`)
	// What AWS takes, and what is no period of a rotation.
	otherPeriod = regexp.MustCompile(`90 to 2,560|[0-9]+ to 30 days|\$[0-9]+ a month`)
	statement   = regexp.MustCompile(`[.;!?]["')*]*\s|\n\n|\n *(?:[*-]|[0-9]+\.) |\| `)
)

// wrongPeriods are the sentences of a text that give a rotation another period.
func wrongPeriods(text string) []string {
	var found []string
	for _, said := range statement.Split(text, -1) {
		said = strings.Join(strings.Fields(said), " ")
		if !aboutRotation.MatchString(said) {
			continue
		}
		for _, one := range period.FindAllString(otherPeriod.ReplaceAllString(said, ""), -1) {
			if one != rotationDays {
				found = append(found, one+": "+said)
			}
		}
	}
	return found
}

// advising are the texts of the project that can tell somebody how often to rotate: the
// documents, the program's own strings, and what is installed.
func advising(t *testing.T) map[string]string {
	t.Helper()
	all := documents(t)
	delete(all, "CHANGELOG.md") // tells what was said before
	for _, dir := range []string{"cmd", "internal", "deploy"} {
		err := fs.WalkDir(os.DirFS(root), dir, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && (entry.Name() == "kmsemulator" || entry.Name() == "testdata"):
				return fs.SkipDir
			case entry.IsDir() || strings.HasSuffix(name, "_test.go"):
				return nil
			}
			data, err := os.ReadFile(filepath.Join(root, name))
			all[name] = string(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestEveryTextGivesARotationTheSamePeriod(t *testing.T) {
	all := advising(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for _, wrong := range wrongPeriods(all[name]) {
			t.Errorf("%s: %s\n\twe advise %s, AWS's default", name, wrong, rotationDays)
		}
	}
}

// TestWhoSwitchesRotationOnReadsThePeriod: the command stands beside it, and where a
// page gives advice, the reason too.
func TestWhoSwitchesRotationOnReadsThePeriod(t *testing.T) {
	const reason = "KMS keeps every earlier material and goes on decrypting with it"
	commands := 0
	for name, text := range documents(t) {
		for _, s := range sections(text) {
			if strings.Contains(s.around, "enable-key-rotation") {
				commands++
				if !strings.Contains(s.around, rotationDays) {
					t.Errorf("%s: %s: enable-key-rotation without %q", name, s.heading, rotationDays)
				}
			}
			isAdvice := name == "docs/rotation.md" && s.heading == "KMS rotates the key" || name == "docs/doctor-codes.md" && s.heading == "KMS0704"
			if isAdvice && (!strings.Contains(s.around, rotationDays) || !strings.Contains(s.around, reason)) {
				t.Errorf("%s: %s: lacks %q or the reason, %q", name, s.heading, rotationDays, reason)
			}
		}
	}
	if commands < 3 {
		t.Errorf("found %d commands: the test is wrong", commands)
	}
}

func TestAnotherPeriodIsFound(t *testing.T) {
	for text, want := range map[string]int{
		"KMS rotates it every 365 days.":                              0,
		"Rotate every 90 days.":                                       1,
		"Automatic rotation, yearly. It costs a dollar a month.":      1,
		"Each rotation costs $1 a month.":                             0,
		"It is rotated every year, or monthly.":                       2,
		"`--rotation-period-in-days=180` rotates it sooner.":          1,
		"Less (`--rotation-period-in-days`, 90 to 2,560) rotates too": 0,
		"A key goes in 7 to 30 days, which is no rotation.":           0,
		"Look at it every month.":                                     0,
	} {
		if got := wrongPeriods(text); len(got) != want {
			t.Errorf("%q: found %q, want %d", text, got, want)
		}
	}
}
