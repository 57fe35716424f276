package doctor_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
)

func TestFormsOfAReport(t *testing.T) {
	t.Parallel()
	address, none := "https://docs#kms0704", ""
	r := &doctor.Report{Version: 1, Failures: 1, Warnings: 1, Groups: []doctor.Group{{Title: "keys", Checks: []doctor.Check{
		{Status: doctor.OK, Text: "one"},
		{Status: doctor.Warning, Text: "two", Code: "KMS0704", Cause: "why", Next: "do this", Link: &address},
		{Status: doctor.Failure, Text: "three", Code: "KMS0101", Cause: "why <so>", Next: "do that", Link: &none},
		{Status: doctor.Skipped, Text: "four"},
	}}}}
	const table = `keys
----
√ one
‼ two
    KMS0704: why
    do: do this
    see https://docs#kms0704
× three
    KMS0101: why <so>
    do: do that
    see aws-encryption-provider explain KMS0101
- four

× failures: 1, warnings: 1
`
	for name, c := range map[string]struct {
		options doctor.PrintOptions
		want    string
	}{
		"table": {doctor.PrintOptions{Form: "table"}, table},
		"colour": {
			doctor.PrintOptions{Form: "table", Color: true},
			strings.NewReplacer("√", "\x1b[32m√\x1b[0m", "‼", "\x1b[33m‼\x1b[0m", "×", "\x1b[31m×\x1b[0m").Replace(table),
		},
		"short": {
			doctor.PrintOptions{Form: "short"},
			"‼ KMS0704 two: why; do this\n× KMS0101 three: why <so>; do that\n× failures: 1, warnings: 1\n",
		},
	} {
		var b strings.Builder
		if err := r.Print(&b, c.options); err != nil || b.String() != c.want {
			t.Errorf("%s: %v, got\n%s\nwant\n%s", name, err, b.String(), c.want)
		}
	}
	var b strings.Builder
	if err := r.Print(&b, doctor.PrintOptions{Form: "json", Color: true}); err != nil || strings.Contains(b.String(), "\x1b") || !strings.Contains(b.String(), `"cause": "why <so>"`) {
		t.Errorf("json: %v\n%s", err, b.String())
	}
	for _, link := range []string{`"link": "https://docs#kms0704"`, `"link": ""`} {
		if strings.Count(b.String(), link) != 1 {
			t.Errorf("json has not one %s:\n%s", link, b.String())
		}
	}
}
