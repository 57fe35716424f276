package cli_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"sigs.k8s.io/aws-encryption-provider/docs"
	"sigs.k8s.io/aws-encryption-provider/internal/cli"
	"sigs.k8s.io/aws-encryption-provider/internal/explain"
)

// said is what a command line prints.
func said(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	code := cli.Main(t.Context(), args, cli.Streams{Out: &out, Err: &errs, LookupEnv: func(string) (string, bool) { return "", false }})
	if code != cli.Done {
		t.Fatalf("%q: exit code %d\n%s", args, code, errs.String())
	}
	return out.String()
}

func TestExplainListsEveryNameWithItsTitle(t *testing.T) {
	list := said(t, "explain")
	for line := range strings.Lines(list) {
		if utf8.RuneCountInString(strings.TrimRight(line, "\n")) > 80 {
			t.Errorf("%d columns: %s", utf8.RuneCountInString(line), line)
		}
	}
	flat := strings.Join(strings.Fields(list), " ")
	topics, err := explain.All(docs.Files())
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range [][]explain.Topic{topics.Codes, topics.Doctor, topics.Alerts, topics.Pages} {
		for _, topic := range group {
			if !strings.Contains(flat, " "+topic.Name+" "+strings.Join(strings.Fields(topic.Title), " ")+" ") {
				t.Errorf("the list lacks %s with %q", topic.Name, topic.Title)
			}
		}
	}
}

func TestShellCompletesNames(t *testing.T) {
	for typed, want := range map[string]string{
		"kms07":                "KMS0704\t",
		"KMS01":                "KMS0101\t",
		"encryptionproviderkm": "EncryptionProviderKMSSlow\t",
		"kms-d":                "kms-down\t",
		"":                     "KMS0101\t",
	} {
		names := said(t, "__complete", "explain", typed)
		if !strings.Contains("\n"+names, "\n"+want) {
			t.Errorf("%q completes to\n%swant %q among them", typed, names, want)
		}
		if typed == "kms07" && strings.Contains(names, "KMS0101") {
			t.Errorf("%q completes to\n%s", typed, names)
		}
	}
	if more := said(t, "__complete", "explain", "KMS0101", "KMS"); strings.Contains(more, "KMS") {
		t.Errorf("a second name is offered:\n%s", more)
	}
}
