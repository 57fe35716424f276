package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// maxFile bounds a file. One with a hundred keys has some 30 kB.
const maxFile = 1 << 20

// parse returns the one document of a file; nil where there is none to look at.
func (d *decoder) parse(data []byte) *yaml.Node {
	if len(data) > maxFile {
		d.add(0, "", fmt.Sprintf("is longer than %d bytes (1 MiB)", maxFile))
		return nil
	}
	d.last = countLines(data)
	if !utf8.Valid(data) {
		d.add(badLine(data), "", "is not UTF-8")
		return nil
	}
	documents, err := documents(data)
	switch {
	case err != nil:
		d.syntax(err, data)
		return nil
	case len(documents) == 0 || len(documents) == 1 && documents[0].ShortTag() == "!!null":
		d.add(0, "", "is empty: want apiVersion, kind and providers")
		return nil
	case len(documents) > 1:
		d.add(documents[1].Line, "", "a second YAML document begins here: want one")
		delete(d.broken, "") // the first one is looked at
	}
	return documents[0]
}

// documents returns the roots of what stands in a text.
func documents(data []byte) ([]*yaml.Node, error) {
	var roots []*yaml.Node
	parser := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document yaml.Node
		err := parser.Decode(&document)
		if errors.Is(err, io.EOF) {
			return roots, nil
		}
		if err != nil {
			return nil, err
		}
		roots = append(roots, document.Content[0])
	}
}

// countLines knows the ends of lines of YAML 1.1, those of Unicode among them.
func countLines(data []byte) int {
	n := 1 - bytes.Count(data, []byte("\r\n"))
	for _, end := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
		n += bytes.Count(data, []byte(end))
	}
	return n
}

func badLine(data []byte) int {
	for i, line := range bytes.Split(data, []byte("\n")) {
		if !utf8.Valid(line) {
			return i + 1
		}
	}
	return 0
}

// syntax names the line with which the text stops being YAML. The parser's own
// number is dropped: it counts from where a construct began, and in two ways.
func (d *decoder) syntax(err error, data []byte) {
	lines := bytes.SplitAfter(data, []byte("\n"))
	ends := make([]int, len(lines))
	end := 0
	for i, line := range lines {
		end += len(line)
		ends[i] = end
	}
	bad := sort.Search(len(lines)-1, func(i int) bool {
		_, same := documents(data[:ends[i]])
		return same != nil && same.Error() == err.Error()
	})
	text := regexp.MustCompile(`^yaml: (line [0-9]+: )?`).ReplaceAllString(err.Error(), "")
	if strings.Contains(text, "cannot start any token") && keyref.Matches(`^ *\t`, string(lines[bad])) {
		text += ": indent with spaces, not with tabs"
	}
	d.add(bad+1, "", "is no YAML: "+cut(text))
}
