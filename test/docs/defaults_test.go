package docs_test

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// defaults are those of docs/flags.md, which is made of the program's flags: by the
// command, then by the flag. A field of the file is there as its flag of serving.
func defaults(t *testing.T) map[string]map[string]string {
	t.Helper()
	page := documents(t)["docs/flags.md"]
	found := map[string]map[string]string{}
	command := ""
	for line := range strings.Lines(page) {
		if name, ok := strings.CutPrefix(line, "## "); ok {
			command = strings.TrimSpace(name)
			found[command] = map[string]string{}
		}
		if m := regexp.MustCompile("^\\| (?:`-.`, )?`--([a-z0-9-]+)` \\| \\w+ \\| (.*?) \\|").FindStringSubmatch(line); m != nil {
			found[command][m[1]] = normal(m[2])
		}
	}
	serving := found["serve"]
	if len(serving) < 20 || len(found) < 8 {
		t.Fatalf("docs/flags.md has %d commands, and %d flags of serving: the test is wrong", len(found), len(serving))
	}
	for field, flag := range map[string]string{"kmsTimeout": "kms-timeout", "outageGrace": "outage-grace", "shutdownDelay": "shutdown-delay"} {
		serving[field] = serving[flag]
	}
	return found
}

// normal is a value as it is compared: 3m, 3m0s and 3 minutes are one.
func normal(value string) string {
	value = strings.Trim(strings.TrimSpace(value), "`[]")
	short := regexp.MustCompile(` ?(minutes?|seconds?|hours?|ms|s|m|h)$`).ReplaceAllStringFunc(value, func(unit string) string {
		unit = strings.TrimSpace(unit)
		if unit == "ms" {
			return unit
		}
		return unit[:1]
	})
	switch d, err := time.ParseDuration(short); {
	case short == "none", short == "0", short == "false": // of a flag that has none, of one of time, and of a switch
		return ""
	case err != nil:
		return value
	case d == 0:
		return ""
	default:
		return d.String()
	}
}

// A claim is that a flag has a default.
type claim struct{ flag, value string }

var (
	// "`--kms-timeout` (2.5 s)", "the default `outageGrace`, `3m`", and "2.5 s unless `--kms-timeout` says otherwise".
	claimBehind = regexp.MustCompile("`(?:--)?([a-zA-Z-]+)`(?:,| \\(|, which is|, by default|, usually) ?`?([0-9][0-9.]* ?(?:minutes?|seconds?|ms|s|m|h))\\b")
	claimBefore = regexp.MustCompile("([0-9][0-9.]* ?(?:minutes?|seconds?|ms|s|m|h))`?,? unless `(?:--)?([a-zA-Z-]+)`")
	claimGrace  = regexp.MustCompile(`grace\b.{0,90}?,? ([0-9]+ minutes?) unless set`)
	claimPort   = regexp.MustCompile(`health port, by default ([0-9]+)\b`)
)

// claims are those of a document's prose.
func claims(text string) []claim {
	var found []claim
	text = strings.Join(strings.Fields(text), " ")
	for _, m := range claimBehind.FindAllStringSubmatch(text, -1) {
		found = append(found, claim{m[1], m[2]})
	}
	for _, m := range claimBefore.FindAllStringSubmatch(text, -1) {
		found = append(found, claim{m[2], m[1]})
	}
	for _, m := range claimGrace.FindAllStringSubmatch(text, -1) {
		found = append(found, claim{"outageGrace", m[1]})
	}
	for _, m := range claimPort.FindAllStringSubmatch(text, -1) {
		found = append(found, claim{"health-port", ":" + m[1]})
	}
	return found
}

// TestProseQuotesTheDefaultsOfFlags: a number that stands beside a flag or field is its
// default.
func TestProseQuotesTheDefaultsOfFlags(t *testing.T) {
	serving := defaults(t)["serve"]
	count := 0
	for name, text := range documents(t) {
		if name == "CHANGELOG.md" || strings.HasPrefix(name, "docs/comparison") {
			continue // of another time, and of other programs
		}
		for _, c := range claims(text) {
			want, known := serving[c.flag]
			if !known {
				continue
			}
			count++
			if normal(c.value) != want {
				t.Errorf("%s: %s is told with %s, and its default is %s", name, c.flag, c.value, want)
			}
		}
	}
	if count < 6 {
		t.Errorf("found %d claims: the test is wrong", count)
	}
}

// TestTablesOfFlagsHaveTheirDefaults compares each table with a column of flags and one
// of defaults, on the page of a command or of serving.
func TestTablesOfFlagsHaveTheirDefaults(t *testing.T) {
	all := defaults(t)
	documents := documents(t)
	rows := 0
	for _, name := range slices.Sorted(maps.Keys(documents)) {
		if name == "docs/flags.md" {
			continue
		}
		flags := all["serve"]
		if own := all[strings.TrimSuffix(strings.TrimPrefix(name, "docs/"), ".md")]; own != nil {
			flags = own
		}
		for _, c := range tableClaims(documents[name]) {
			want, known := flags[c.flag]
			if !known {
				continue
			}
			rows++
			if got := normal(c.value); got != want {
				t.Errorf("%s: the default of %s is %q, and docs/flags.md has %q", name, c.flag, got, want)
			}
		}
	}
	if rows < 25 {
		t.Errorf("found %d rows: the test is wrong", rows)
	}
}

// tableClaims are the rows of tables that have a column of flags, or fields, and one of
// defaults.
func tableClaims(text string) []claim {
	var found []claim
	flag, value := -1, -1
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			flag, value = -1, -1
			continue
		}
		cells := strings.Split(strings.ReplaceAll(line, `\|`, " "), "|")
		for i, cell := range cells {
			switch strings.TrimSpace(cell) {
			case "flag":
				flag = i
			case "default":
				value = i
			}
		}
		if flag < 0 || value < 0 || len(cells) <= max(flag, value) {
			continue
		}
		names := regexp.MustCompile("`--([a-z0-9-]+)`").FindAllStringSubmatch(cells[flag], -1)
		if len(names) == 1 {
			found = append(found, claim{names[0][1], literal(cells[value])})
		}
	}
	return found
}

// literal is the first value in a cell. What is told in words is no value of the flag.
func literal(cell string) string {
	if m := regexp.MustCompile("`\"?([^`\"]*)\"?`").FindStringSubmatch(cell); m != nil {
		return m[1]
	}
	return ""
}

func TestClaimsOfDefaultsAreFound(t *testing.T) {
	serving := defaults(t)["serve"]
	for text, want := range map[string]bool{
		"within `--kms-timeout` (2.5 s)":                                               true,
		"within `--kms-timeout` (5 s)":                                                 false,
		"the default `outageGrace`, `3m`, is":                                          true,
		"the default `outageGrace`, `5m`, is":                                          false,
		"may take 2.5 s unless `--kms-timeout` says":                                   true,
		"may take 3 s unless `--kms-timeout` says":                                     false,
		"for [the outage grace](a.md#b) since\nthe last success, 3 minutes unless set": true,
		"for [the outage grace](a.md#b) since\nthe last success, 4 minutes unless set": false,
		"of its health port, by default 8080.":                                         true,
		"of its health port, by default 8083.":                                         false,
		"| flag | default |\n| --- | --- |\n| `--kms-timeout` | `2.5s` |":              true,
		"| flag | default |\n| --- | --- |\n| `--kms-timeout` | `3s` |":                false,
		"| flag | default |\n| --- | --- |\n| `--region` | none |":                     true,
		"| flag | default |\n| --- | --- |\n| `--region` | `us-west-2` |":              false,
	} {
		found := append(claims(text), tableClaims(text)...)
		if len(found) != 1 || (normal(found[0].value) == serving[found[0].flag]) != want {
			t.Errorf("%q: found %q, want one that is %v", text, found, want)
		}
	}
}
