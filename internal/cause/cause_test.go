package cause_test

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

func TestEveryCauseHasACompleteUniqueRow(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, c := range cause.Codes() {
		info := c.Info()
		if !regexp.MustCompile(`^KMS0[0-9]{3}$`).MatchString(info.ID) || seen[info.ID] {
			t.Errorf("code %d: ID %q is malformed or taken", c, info.ID)
		}
		seen[info.ID] = true
		if info.Class == "" || info.What == "" || info.Next == "" {
			t.Errorf("%s: class %q, what %q, next %q: want all three", info.ID, info.Class, info.What, info.Next)
		}
	}
}

// An instruction is read by whoever is alone with one node of three, and by whoever
// sees it in an outage: where it could hurt then, it says so.
func TestInstructionsThatCouldHurtSayWhereAndWhenNot(t *testing.T) {
	t.Parallel()
	var (
		hurts  = regexp.MustCompile(`(?i)\brestart\b|\bstart (the|this|it)\b|\breload|\bpromote|\bon top\b|to the top|\bremove\b|take .* out\b|\bdisable\b|\bdelete\b|\bstop\b|raise the timeout`)
		nodes  = regexp.MustCompile(`(?i)\b(every|any|other|each|one) (node|API server|one directly)|the other nodes`)
		outage = regexp.MustCompile(`(?i)outage of KMS|KMS (does not answer|answers)`)
		told   int
	)
	for _, c := range cause.Codes() {
		info := c.Info()
		text := strings.ReplaceAll(info.Next+"\n"+info.Doc, "without a restart", "")
		if !hurts.MatchString(text) {
			continue
		}
		told++
		if !nodes.MatchString(text) || !outage.MatchString(text) {
			t.Errorf("%s names a step that hurts (%q) without other nodes, or an outage, in mind:\n%s", info.ID, hurts.FindString(text), text)
		}
	}
	if told < 10 {
		t.Errorf("%d instructions could hurt, want 10: the list of verbs finds none", told)
	}
}

// A code that an operator has seen in a log must mean the same for ever.
func TestIDsAreStable(t *testing.T) {
	t.Parallel()
	for id, code := range map[string]cause.Code{
		"KMS0101": cause.KeyDisabled, "KMS0104": cause.AccessDenied, "KMS0201": cause.Throttled,
		"KMS0203": cause.TimedOut, "KMS0301": cause.NoCredentials, "KMS0404": cause.CiphertextInvalid,
		"KMS0405": cause.NoKeyMadeIt, "KMS0501": cause.CallerLeft, "KMS0601": cause.TooManyCalls, "KMS0999": cause.Unforeseen,
	} {
		if code.String() != id {
			t.Errorf("%v: ID %s, want %s", code.Info().What, code, id)
		}
	}
}

// The commands that enable a key take no alias.
func TestCommandForAnAliasNamesItsKey(t *testing.T) {
	t.Parallel()
	const arn = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	for _, c := range []struct{ key, said, want string }{
		{"alias/K8sKMSKey", arn + " is disabled.", "enable-key --key-id " + arn + " --region us-west-2"},
		{"arn:aws:kms:us-west-2:111122223333:alias/K8sKMSKey", arn + " is disabled.", "enable-key --key-id " + arn + " --region us-west-2"},
		{"alias/K8sKMSKey", "", "enable-key --key-id KEY"},
		{arn, "", "enable-key --key-id " + arn + " --region us-west-2"},
	} {
		err := &cause.Error{Code: cause.KeyDisabled, Key: c.key, Said: c.said}
		if next := err.Next(); !strings.HasSuffix(next, c.want) {
			t.Errorf("%s: %s, want it to end with %s", c.key, next, c.want)
		}
	}
}

func TestErrorNamesEverythingAnOperatorNeeds(t *testing.T) {
	t.Parallel()
	err := &cause.Error{
		Code: cause.AccessDenied, Provider: "0", Op: "Encrypt", Key: "arn:aws:kms:us-west-2:111122223333:key/k",
		AWSCode: "AccessDeniedException", RequestID: "r-1", Said: "no\nAuthorization: secret",
		Principal: "arn:aws:iam::111122223333:role/node", Action: "kms:Encrypt",
	}
	want := `KMS0104 provider "0": Encrypt with arn:aws:kms:us-west-2:111122223333:key/k: access is denied ` +
		`(AccessDeniedException, "no", request r-1); grant kms:Encrypt on arn:aws:kms:us-west-2:111122223333:key/k to arn:aws:iam::111122223333:role/node, in IAM and in the key policy; more: aws-encryption-provider explain KMS0104`
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
}

func TestForeignStringsAreQuotedAndCut(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"control characters": "a\x00\x1b[31mb", "long": strings.Repeat("x", 5000), "long runes": strings.Repeat("ä", 5000),
		"invalid utf-8": "\xff\xfe", "second line": "first\nsecret",
	} {
		text := (&cause.Error{Code: cause.Unforeseen, Said: in, AWSCode: in, RequestID: in, Principal: in, Key: in}).Error()
		if strings.ContainsAny(text, "\x00\x1b\n") || !utf8.ValidString(text) || strings.Contains(text, "secret") {
			t.Errorf("%s: text is not safe to print: %q", name, text)
		}
		if len(text) > 6*400+400 {
			t.Errorf("%s: text has %d bytes", name, len(text))
		}
	}
}

// AWS says last why it denied access.
func TestLongSentenceKeepsItsBeginningAndItsEnd(t *testing.T) {
	t.Parallel()
	const (
		begins = "User: arn:aws:sts::111122223333:assumed-role/"
		ends   = "with an explicit deny in a service control policy: arn:aws:organizations::444455556666:policy/o-exampleorgid/service_control_policy/p-examplepolicy"
	)
	for n := range 600 {
		for _, filler := range []string{"r", "ä", "€", "😀"} {
			sentence := begins + strings.Repeat(filler, n) + " is not authorized to perform: kms:Encrypt " + ends
			got, err := strconv.Unquote(cause.Quote(sentence))
			if err != nil || !strings.HasPrefix(got, begins) || !strings.HasSuffix(got, ends) || !utf8.ValidString(got) || len(got) > 320 {
				t.Fatalf("%d of %s: %v, %d bytes: %q", n, filler, err, len(got), got)
			}
			if len(sentence) <= 320 && got != sentence {
				t.Fatalf("%d of %s: cut to %q, and there is room", n, filler, got)
			}
		}
	}
}

func TestOfFindsTheCauseThroughWrapping(t *testing.T) {
	t.Parallel()
	e := &cause.Error{Code: cause.KeyDisabled}
	if got := cause.Of(fmt.Errorf("reading: %w", e)); got != e {
		t.Errorf("Of(wrapped) = %v, want %v", got, e)
	}
	if got := cause.ClassOf(errors.New("who knows")); got != cause.Bug {
		t.Errorf("class of a foreign error = %s, want %s", got, cause.Bug)
	}
}

func TestWorstIsWhatAPersonHasToMend(t *testing.T) {
	t.Parallel()
	refused, outage, bad := &cause.Error{Code: cause.KeyDisabled}, &cause.Error{Code: cause.TimedOut}, &cause.Error{Code: cause.NoKeyMadeIt}
	for name, c := range map[string]struct {
		errs []*cause.Error
		want *cause.Error
	}{
		"none":                    {nil, nil},
		"refused over outage":     {[]*cause.Error{outage, refused, bad}, refused},
		"outage over bad data":    {[]*cause.Error{bad, outage}, outage},
		"first of the same class": {[]*cause.Error{bad, {Code: cause.CiphertextInvalid}}, bad},
	} {
		if got := cause.Worst(c.errs); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

// What to do depends on which source of credentials was asked.
func TestSourceOfCredentialsStandsInTheTextOnce(t *testing.T) {
	t.Parallel()
	const source = `STS at "https://sts.example"`
	for name, c := range map[string]struct {
		err  cause.Error
		next string
	}{
		"the table's next step names it": {cause.Error{Code: cause.CredentialsSilent, Source: source}, "check the way to " + source},
		"the table's does not":           {cause.Error{Code: cause.CredentialsExpired, Source: source}, "renew the credentials"},
		"a step of its own":              {cause.Error{Code: cause.CredentialsSilent, Source: source, Check: "ring the bell"}, "ring the bell"},
		"no source is known":             {cause.Error{Code: cause.CredentialsSilent}, "check the way to the source of the credentials"},
	} {
		if next := c.err.Next(); !strings.HasPrefix(next, c.next) {
			t.Errorf("%s: next step %q, want %q", name, next, c.next)
		}
		if n := strings.Count(c.err.Error(), source); c.err.Source != "" && n != 1 {
			t.Errorf("%s: the source stands %d times in %q", name, n, c.err.Error())
		}
	}
}

func TestAnInstructionNamesSettingsAsTheOperatorDoes(t *testing.T) {
	t.Parallel()
	flag := func(setting string) string { return "--" + setting }
	for _, c := range []struct {
		called cause.Names
		want   string
	}{
		{nil, "check the node's DNS, the setting region and the setting endpoint"},
		{flag, "check the node's DNS, --region and --endpoint"},
	} {
		err := (&cause.Error{Code: cause.NameResolution}).CalledBy(c.called)
		if next := err.Next(); next != c.want {
			t.Errorf("next is %q, want %q", next, c.want)
		}
	}
	var none *cause.Error
	if none.CalledBy(flag) != nil {
		t.Error("no error becomes one when its settings are named")
	}
}

func TestNoInstructionNamesAFlag(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`--[a-z][a-z-]+`)
	for _, code := range cause.Codes() {
		if flags := form.FindAllString(code.Info().Next+code.Info().Doc, -1); len(flags) > 0 {
			t.Errorf("%s names %v, which an operator with a file does not have: name the setting, such as {setting:region}", code, flags)
		}
	}
}
