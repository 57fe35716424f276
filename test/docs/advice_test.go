package docs_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// An instruction tells one to restart, reload, move, take away, disable or delete
// something, or to use, set or attach what nodes share or have each.
type instruction struct {
	document string
	section  string // its heading, or the alert
	text     string // the sentence, or the command
	around   string // where its warnings have to stand
}

func (i instruction) String() string {
	return fmt.Sprintf("%s: %s: %s", i.document, i.section, i.text)
}

// TestInstructionsSayWhatOneNodeAndAnOutageChange: whoever follows an instruction at
// night reads beside it what happens if one node of three does it, and what if KMS is
// out. Both stand in the section of the instruction, or at the head of a section that
// contains it (that of the whole page does not count). What needs neither stands in
// no-nodes-no-outage.txt with the reason.
func TestInstructionsSayWhatOneNodeAndAnOutageChange(t *testing.T) {
	const file = "no-nodes-no-outage.txt"
	reasons, err := readReasons(read(t, file))
	if err != nil {
		t.Fatal(err)
	}
	all, met := guides(t), map[string]bool{}
	count := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for _, i := range instructions(name, all[name]) {
			count++
			lacks := i.lacks()
			if lacks == "" {
				continue
			}
			if excuse := excused(i.String(), reasons); excuse != "" {
				met[excuse] = true
			} else {
				t.Errorf("%s\n\tits section does not say %s: say it, or link to docs/failures.md#before-you-touch-a-node; if it does not matter, %s takes the line with a reason", i, lacks, file)
			}
		}
	}
	if count < 50 {
		t.Errorf("%d instructions found: the test is wrong", count)
	}
	for excuse := range reasons {
		if !met[excuse] {
			t.Errorf("%s: no such instruction any more, or its section says all by now: %s", file, excuse)
		}
	}
}

// guides are the documents that an operator follows, and the alerts.
func guides(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for name, text := range documents(t) {
		if name == "README.md" || strings.HasPrefix(name, "docs/") && name != "docs/architecture.md" {
			found[name] = text
		}
	}
	const alerts = "deploy/observability/alerts.yaml"
	data, err := os.ReadFile(filepath.Join(root, alerts))
	if err != nil {
		t.Fatal(err)
	}
	found[alerts] = alertTexts(string(data))
	return found
}

// alertTexts makes a document of the alerts' descriptions: each is a section.
func alertTexts(rules string) string {
	var b strings.Builder
	for line := range strings.Lines(rules) {
		if _, name, ok := strings.Cut(line, "- alert: "); ok {
			fmt.Fprintf(&b, "## %s\n", name)
		}
		if _, text, ok := strings.Cut(line, " description: "); ok {
			fmt.Fprintf(&b, "%s\n", strings.Trim(strings.TrimSpace(text), `'"`))
		}
	}
	return b.String()
}

// excused returns the excuse that the instruction begins with.
func excused(instruction string, reasons map[string]string) string {
	for excuse := range reasons {
		if strings.HasPrefix(instruction, excuse) {
			return excuse
		}
	}
	return ""
}

// What a section has to say. A link to the table has the outage, and the text of that
// link, or the sentence around it, the nodes.
var (
	saysNodes = regexp.MustCompile(`(?i)\b(?:one|every|each|all|other|last|next|no)\W+(?:[\w-]+ ){0,3}(?:nodes?|servers?|control planes?|machines?|instances?|replicas?)\b` +
		`|\bone (?:at a time|after the other)\b|\bnode after (?:the other|node)\b`)
	saysOutage = regexp.MustCompile(`(?i)\bKMS\W+(?:is (?:out|down|away|back|cut)|(?:still )?answers|has to answer|does not answer|cannot be reached|hangs)\b` +
		`|(?:^|[\s(*"])outages?(?:[\s.,;:)*"]|$)|#before-you-touch-a-node`)
)

// lacks returns what the section does not say, "" if it says all.
func (i instruction) lacks() string {
	var lacks []string
	if !saysNodes.MatchString(i.around) {
		lacks = append(lacks, "in which order nodes take it")
	}
	if !saysOutage.MatchString(i.around) {
		lacks = append(lacks, "what if KMS is out")
	}
	return strings.Join(lacks, ", nor ")
}

// An instruction is a sentence, or a part of one, that begins with such a verb, or a
// command that does so. One that says not to is none.
const begins = "(?i)(?:^|[.:;!?,] |\\b(?:then|and|or|first|now|only|also|again|better|so) )[*_`(\\[]*"

var (
	imperative = regexp.MustCompile(begins +
		`(?:restart|reload|reboot|drain|roll|promote|move|remove|take|disable|delete|schedule|put|stop|kill|swap|raise|lower|replace|retire|switch|revoke|evict|shut|purge|uninstall|upgrade|downgrade|change|rename|rotate|terminate|re-?create|reset|wipe|detach|unmount|cut|end|exchange|restore|cordon|pause)[*_]*(?: |,|$)`)
	// These say it of everything: they count where they are said of what nodes share or have each.
	onWhat = regexp.MustCompile(begins + `(?:use|attach|set|add|give|install|start|point|copy|write|list|drop|edit)[*_]* [^.:;!?]*` +
		`\b(?:nodes?|machines?|instances?|servers?|keys?|alias|files?|manifests?|polic(?:y|ies)|roles?|profiles?|EncryptionConfigurations?|units?|pods?|` + "`?(?:timeout|outageGrace|epoch|--kms-timeout)`?" + `)(?:\W|$)`)
	// Before the verb, as in "do not restart", or right behind it, as in "restart none".
	prohibition = regexp.MustCompile(`(?i)\b(?:do not|never|nothing|no|nobody|none|may not|must not|cannot)\b`)
	nothing     = regexp.MustCompile(`(?i)^[*_]*(?:no|none|nothing)\b`)
	command     = regexp.MustCompile(`\bsystemctl (?:\S+ )*(?:restart|stop|reload|try-restart|disable)\b` +
		`|\bkms (?:disable-key\b|schedule-key-deletion|delete-)|\bkubectl (?:\S+ )*(?:delete|drain|rollout)\b|\bkill -|\bkillall\b` +
		`|\bcrictl (?:rm|stop)|\brolling-update\b|\bkubeadm (?:upgrade|reset)\b|\b(?:apt|apt-get) (?:remove|purge)\b` +
		`|^\s*(?:sudo )?(?:mv|rm) .*(?:[Mm]anifest|MANIFEST|\.sock|\.state)|\breboot\b` +
		`|\bdpkg (?:.* )?(?:--install|-i|--remove|-r|--purge|-P)\b|\bansible-playbook .*upgrade-cluster\.yml`)
	inline   = regexp.MustCompile("`([^`]+ [^`]+)`")
	item     = regexp.MustCompile(`^\s*(?:[*-]|\d+\.|\|)\s`)
	sentence = regexp.MustCompile(`[.:;!?]['")*]* | \| `)
)

// instructions are those of a document, in its order.
func instructions(name, text string) []instruction {
	var found []instruction
	for _, s := range sections(text) {
		for _, told := range s.told {
			found = append(found, instruction{document: name, section: s.heading, text: told, around: s.around})
		}
	}
	return found
}

// A section is from one heading to the next.
type section struct {
	heading string
	around  string // its text, and the heads of the sections that contain it
	told    []string
}

func sections(text string) []section {
	var found []section
	heads := map[int]string{} // by level: text below a heading, up to the next one
	level, heading, body := 0, "", ""
	end := func() {
		around := body
		for l := 2; l < level; l++ {
			around += "\n" + heads[l]
		}
		heads[level] = heading + "\n" + body
		for l := level + 1; l < 7; l++ {
			delete(heads, l)
		}
		found = append(found, section{heading: heading, around: heading + "\n" + strings.Join(strings.Fields(around), " "), told: tells(body)})
	}
	fenced := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		}
		hashes, title, ok := strings.Cut(strings.TrimSpace(line), " ")
		if fenced || !ok || hashes == "" || strings.Trim(hashes, "#") != "" {
			body += line
			continue
		}
		end()
		level, heading, body = len(hashes), title, ""
	}
	end()
	return found
}

// instructs tells whether a sentence does.
func instructs(said string) bool {
	for _, code := range inline.FindAllStringSubmatch(said, -1) {
		if command.MatchString(code[1]) {
			return true
		}
	}
	for _, verbs := range []*regexp.Regexp{imperative, onWhat} {
		at := verbs.FindStringIndex(said)
		if at != nil && !prohibition.MatchString(said[:at[1]]) && !nothing.MatchString(said[at[1]:]) {
			return true
		}
	}
	return false
}

// tells returns the instructions of a section's text.
func tells(body string) []string {
	var found []string
	paragraph := ""
	end := func() {
		for _, said := range sentence.Split(paragraph+" ", -1) {
			said = strings.TrimSpace(strings.Trim(strings.TrimSpace(said), "|"))
			if instructs(said) {
				found = append(found, said)
			}
		}
		paragraph = ""
	}
	fenced := false
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			end()
			fenced = !fenced
		case fenced && command.MatchString(line):
			found = append(found, line)
		case fenced && !strings.HasPrefix(line, "# "):
			end()
		case line == "":
			end()
		default:
			if item.MatchString(line + " ") {
				end()
				line = item.ReplaceAllString(line, "")
			}
			paragraph += strings.TrimPrefix(line, "# ") + " "
		}
	}
	end()
	return found
}

func TestInstructionsAreFound(t *testing.T) {
	for text, want := range map[string]string{
		"Restart the program.":                              "Restart the program",
		"1. **Disable** it: `aws kms disable-key`.":         "**Disable** it; `aws kms disable-key`",
		"* Wait. Then take it\nout.":                        "Then take it out",
		"| code | then restart it |":                        "then restart it",
		"Do not restart it. Restart nothing.":               "",
		"Use the other key.":                                "Use the other key",
		"Attach the policy to the role, then go on.":        "Attach the policy to the role, then go on",
		"Re-create the pod. Recreate it.":                   "Re-create the pod; Recreate it",
		"Replace it, or rename it.":                         "Replace it, or rename it",
		"Set `timeout` to 5s.":                              "Set `timeout` to 5s",
		"Use a good editor. Set the scene.":                 "", // neither changes what nodes share or have each
		"They use the other key. In use: a key.":            "",
		"Restart nothing.":                                  "",
		"A restart helps. It restarts.":                     "",
		"```\n# Now\n# restart it.\na: b\n```":              "Now restart it",
		"It does so by `systemctl restart a`.":              "It does so by `systemctl restart a`",
		"```\nkubectl -n a delete pod b\n```":               "kubectl -n a delete pod b",
		"```\nsudo systemctl restart a\nkubectl get a\n```": "sudo systemctl restart a",
	} {
		var got []string
		for _, i := range instructions("made.md", text+"\n") {
			got = append(got, i.text)
		}
		if g := strings.Join(got, "; "); g != want {
			t.Errorf("in %q these are instructions: %q, want %q", text, g, want)
		}
	}
}

func TestInstructionWithoutItsWarningsIsFound(t *testing.T) {
	const step = "### Step\nRestart it.\n"
	for name, c := range map[string]struct{ text, lacks string }{
		"nothing":                 {"# Page\n" + step, "in which order nodes take it, nor what if KMS is out"},
		"nodes only":              {step + "One node after the other.\n", "what if KMS is out"},
		"outage only":             {step + "Not in an outage.\n", "in which order nodes take it"},
		"both":                    {step + "One node after the\nother, and not in an outage.\n", ""},
		"at the head of it":       {"## Steps\nOne node at a time, while KMS answers.\n" + step, ""},
		"at the head of the page": {"# Page\nOne node at a time, while KMS answers.\n" + step, "in which order nodes take it, nor what if KMS is out"},
		"in a section beside it":  {"## Steps\n### Other\nOne node at a time, while KMS answers.\n" + step, "in which order nodes take it, nor what if KMS is out"},
		"in a section before it":  {"## Other\nOne node at a time, while KMS answers.\n## Steps\n" + step, "in which order nodes take it, nor what if KMS is out"},
		"by a link":               {step + "[One node at a time](failures.md#before-you-touch-a-node).\n", ""},
		"of an alert":             {alertTexts("- alert: A\n  description: 'Restart it.'\n- alert: B\n  description: 'All nodes, if KMS answers.'\n"), "in which order nodes take it, nor what if KMS is out"},
	} {
		found := instructions("made.md", c.text)
		if len(found) != 1 || found[0].lacks() != c.lacks {
			t.Errorf("%s: found %q, want one that lacks %q", name, found, c.lacks)
			for _, i := range found {
				t.Logf("%s lacks %q in %q", i, i.lacks(), i.around)
			}
		}
	}
}
