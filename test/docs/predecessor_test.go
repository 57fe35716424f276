package docs_test

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestPredecessorsExamplesStandAsWritten: who comes with the predecessor's guide finds
// its examples to the byte, on pages that README.md leads to.
func TestPredecessorsExamplesStandAsWritten(t *testing.T) {
	readme := read(t, filepath.Join(root, "README.md"))
	for example, page := range map[string]string{
		"pod.yaml": "docs/setup.md", "encryption.yaml": "docs/setup.md", "rotation.yaml": "docs/rotation.md",
	} {
		text := read(t, filepath.Join("testdata", "predecessor", example))
		if !hasBlock(read(t, filepath.Join(root, page)), text) {
			t.Errorf("%s has no yaml block with exactly testdata/predecessor/%s", page, example)
		}
		if !strings.Contains(readme, "]("+page) {
			t.Errorf("README.md does not lead to %s", page)
		}
	}
}

// TestRotationByTwoProvidersIsWhole: after the block from before, the page has the same
// with the order switched, what starts each process, and what the second one needs.
func TestRotationByTwoProvidersIsWhole(t *testing.T) {
	page := read(t, filepath.Join(root, "docs", "rotation.md"))
	head, old, found := strings.Cut(read(t, filepath.Join("testdata", "predecessor", "rotation.yaml")), "    # provider using old key\n")
	old, fresh, second := strings.Cut(old, "    # provider using new Key\n")
	fresh, tail, last := strings.Cut(fresh, "    - identity: {}\n")
	if !found || !second || !last || tail != "" {
		t.Fatal("the example has another form: the test is wrong")
	}
	switched := head + "    # provider using new Key\n" + fresh + "    # provider using old key\n" + old + "    - identity: {}\n"
	if !hasBlock(page, switched) {
		t.Errorf("docs/rotation.md has no block with the order switched:\n%s", switched)
	}
	for _, want := range []string{
		"\n/aws-encryption-provider -key=OLD -region=us-west-2 -listen=/var/run/kmsplugin/socket.sock\n",
		"\n/aws-encryption-provider -key=NEW -region=us-west-2 -listen=/var/run/kmsplugin/socket2.sock\n",
		"-health-port=", "--feature-gates=KMSv1=true", "apiVersion: v2", "--encryption-provider-config-automatic-reload=true",
	} {
		if _, section, _ := strings.Cut(page, "\n## By two providers\n"); !strings.Contains(section, want) {
			t.Errorf("docs/rotation.md: By two providers: lacks %q", want)
		}
	}
	for _, from := range []string{"setup.md", "upgrade.md"} {
		if !strings.Contains(read(t, filepath.Join(root, "docs", from)), "(rotation.md#by-two-providers)") {
			t.Errorf("docs/%s does not lead to it", from)
		}
	}
}

// hasBlock tells whether a document has a yaml block of exactly this text.
func hasBlock(document, text string) bool {
	return strings.Contains(document, "\n```yaml\n"+text+"```\n")
}
