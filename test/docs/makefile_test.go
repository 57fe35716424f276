package docs_test

import (
	"regexp"
	"strings"
	"testing"
)

// TestMakeHelpNamesEveryTarget: what people may make has a text for make help.
func TestMakeHelpNamesEveryTarget(t *testing.T) {
	makefile := read(t, "../../Makefile")
	silent := map[string]bool{"tools": true} // what other targets need
	found := 0
	for _, line := range regexp.MustCompile(`(?m)^\.PHONY: (.*)$`).FindAllStringSubmatch(makefile, -1) {
		for target := range strings.FieldsSeq(line[1]) {
			found++
			if !silent[target] && !regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(target)+`:.*## \S`).MatchString(makefile) {
				t.Errorf("make help does not name %s: give it a text after ##", target)
			}
		}
	}
	if found < 10 {
		t.Errorf("found %d targets: the test is wrong", found)
	}
}
