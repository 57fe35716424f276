package doctor_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// A fault is one thing that is wrong, and the code by which the doctor names it.
type fault struct {
	name  string
	code  string
	seen  string // in the text or the cause
	plant func(n *node)
}

func faults() []fault {
	return slices.Concat(configFaults(), endpointFaults(), credentialFaults(), keyFaults(), socketFaults(), runningFaults(), encryptionFaults())
}

func configFaults() []fault {
	flags := func(args ...string) func(*node) { return func(n *node) { n.flags = args } }
	return []fault{
		{"file with a mistake", "KMS0701", "c.yaml:3", func(n *node) {
			n.file = n.write("c.yaml", fileHead+"providers: [{name: a, listen: /tmp/s, keys: [{key: alias/a}], nonsense: 1}]\n")
		}},
		{"placeholder for a key", "KMS0701", "is a placeholder that nobody has filled in", func(n *node) {
			n.keysFile("arn:aws:kms:us-west-2:111122223333:key/xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
		}},
		{"blank behind a key", "KMS0701", "has a blank at its end", func(n *node) { n.keysFile("\"" + n.key + " \"") }},
		{"setting without effect", "KMS0702", "", flags("--qps-limit=5", "--burst-limit=5")},
	}
}

// findings are the codes of a report, with all that is said of them.
func findings(r *doctor.Report) (codes []string, said string) {
	for _, g := range r.Groups {
		for _, c := range g.Checks {
			if c.Code != "" {
				codes = append(codes, c.Code)
				said += fmt.Sprintf("%s\n%s: %s\n%s\n%s\n", c.Text, c.Code, c.Cause, c.Next, *c.Link)
			}
		}
	}
	return codes, said
}

func TestEachFaultIsNamedOnceWithOneInstruction(t *testing.T) {
	all := faults()
	if len(all) < 25 {
		t.Errorf("%d faults, want 25", len(all))
	}
	for _, f := range all {
		t.Run(f.name, func(t *testing.T) {
			n := newNode(t, kmstest.Start(t))
			f.plant(n)
			r := n.examine()
			codes, _ := findings(r)
			also := f.code == "KMS0720" && slices.Equal(codes, []string{"KMS0719", f.code}) // a cache is v1's
			if !also && !slices.Equal(codes, []string{f.code}) {
				t.Errorf("finds %q, want %s alone:\n%s", codes, f.code, text(t, r))
			}
			if !strings.Contains(text(t, r), f.seen) {
				t.Errorf("does not say %q:\n%s", f.seen, text(t, r))
			}
			leaksNothing(t, n, r)
			linksLead(t, r)
			titlesSayWhatWasFound(t, r)
			instructionsSayWhereAndWhenNot(t, r)
		})
	}
}

// titlesSayWhatWasFound: a line behind × or ‼ is the finding. One that says what
// should be has none of these words.
func titlesSayWhatWasFound(t *testing.T, r *doctor.Report) {
	t.Helper()
	finding := regexp.MustCompile(`\b(no|not|cannot|fails?|off|refused|refuses|lacks|another|slow|short|shorter|long|small|problem|elsewhere|v1)\b|every user|has (mode|group) |no effect`)
	for _, g := range r.Groups {
		for _, c := range g.Checks {
			if c.Code != "" && !finding.MatchString(c.Text) {
				t.Errorf("%s: the line says what should be: %s", c.Code, c.Text)
			}
		}
	}
}

// couldHurt reports whether an instruction restarts, removes or changes something on
// which others depend, and what its words lack for who is alone with one node of
// three, and for who sees it in an outage.
func couldHurt(text string) (hurts bool, lacks string) {
	text = strings.ReplaceAll(text, "without a restart", "")
	steps := regexp.MustCompile(`(?i)\brestart\b|\breload|\bpromote|\bto the top\b|first place|\bremove\b|take [^.;]* out\b|\bdisable\b|\bdelete\b|\bstop\b|\bstopped\b|start the program|hostNetwork|\b(raise|lower|give|add|write|choose) [^.;]*(timeout|entry|endpoint|name|cachesize|secrets|epoch)\b`)
	switch {
	case !steps.MatchString(text):
		return false, ""
	case !regexp.MustCompile(`(?i)\b(every|all|any|other|no|this) (other )?(nodes?|API servers?)|one (node|API server) after the other`).MatchString(text):
		return true, "the other nodes"
	case !regexp.MustCompile(`(?i)outage of KMS|KMS (does not answer|answers)`).MatchString(text):
		return true, "an outage"
	}
	return true, ""
}

func TestInstructionsThatCouldHurtSayWhereAndWhenNot(t *testing.T) {
	t.Parallel()
	told := 0
	for _, c := range doctor.Codes() {
		info := c.Info()
		hurts, lacks := couldHurt(info.Next + "\n" + info.Doc)
		if hurts {
			told++
		}
		if lacks != "" {
			t.Errorf("%s could hurt, and does not have %s in mind: %s\n%s", info.ID, lacks, info.Next, info.Doc)
		}
	}
	if told < 20 {
		t.Errorf("%d instructions could hurt, want 20: the list of verbs finds none", told)
	}
}

// instructionsSayWhereAndWhenNot looks at those with the keys filled in.
func instructionsSayWhereAndWhenNot(t *testing.T, r *doctor.Report) {
	t.Helper()
	docs := map[string]string{}
	for _, c := range doctor.Codes() {
		docs[c.Info().ID] = c.Info().Doc
	}
	for _, g := range r.Groups {
		for _, c := range g.Checks {
			doc, ours := docs[c.Code]
			if _, lacks := couldHurt(c.Next + "\n" + doc); ours && lacks != "" {
				t.Errorf("%s could hurt, and does not have %s in mind: %s", c.Code, lacks, c.Next)
			}
		}
	}
}

// published is where the pages are, as far as a report knows.
const published = "https://docs.example/kms"

// linksLead looks for the section that each link leads to.
func linksLead(t *testing.T, r *doctor.Report) {
	t.Helper()
	for _, g := range r.Groups {
		for _, c := range g.Checks {
			if c.Code == "" {
				continue
			}
			path, published := strings.CutPrefix(*c.Link, published+"/")
			page, anchor, _ := strings.Cut(path, "#")
			text, err := os.ReadFile(filepath.Join("../../docs", page))
			if !published || err != nil || anchor != strings.ToLower(c.Code) || !strings.Contains(string(text), "\n## "+c.Code+"\n") {
				t.Errorf("%s leads nowhere: %v", *c.Link, err)
			}
		}
	}
}

func TestUnknownCAIsNamed(t *testing.T) {
	n := newNode(t, kmstest.StartTLS(t))
	t.Setenv("AWS_CA_BUNDLE", "")
	if codes, said := findings(n.examine()); !slices.Equal(codes, []string{"KMS0206"}) {
		t.Errorf("finds %q, want KMS0206:\n%s", codes, said)
	}
}

func TestRoleThatCannotBeAssumedIsNamed(t *testing.T) {
	n := newNode(t, kmstest.Start(t, kmsemulator.Options{Roles: []kmsemulator.Role{{ARN: "arn:aws:iam::111122223333:role/other"}}}))
	n.flags = []string{"--assume-role-arn=arn:aws:iam::111122223333:role/kms"}
	if codes, said := findings(n.examine()); !slices.Equal(codes, []string{"KMS0305"}) {
		t.Errorf("finds %q, want KMS0305:\n%s", codes, said)
	}
}

func TestClockThatAWSRefusesIsNamed(t *testing.T) {
	n := newNode(t, kmstest.Start(t))
	n.respond(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(-10*time.Minute).UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"__type":"InvalidSignatureException","message":"Signature not yet current"}`)
	})
	r := n.examine()
	if codes, said := findings(r); !slices.Equal(codes, []string{"KMS0304"}) || !strings.Contains(said, "off by 10m") {
		t.Errorf("finds %q, want KMS0304 of the clock:\n%s", codes, text(t, r))
	}
}

// text is the report as a person reads it.
func text(t *testing.T, r *doctor.Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.Print(&b, doctor.PrintOptions{Form: "table"}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// leaksNothing looks for what must never be printed, in every form.
func leaksNothing(t *testing.T, n *node, r *doctor.Report) {
	t.Helper()
	for _, form := range doctor.Forms() {
		var b strings.Builder
		if err := r.Print(&b, doctor.PrintOptions{Form: form}); err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{n.kms.Credential.SecretAccessKey, "c2VjcmV0", "Authorization"} {
			if strings.Contains(b.String(), secret) {
				t.Errorf("%s shows %q", form, secret)
			}
		}
	}
}
