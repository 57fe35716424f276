// Package report prints what a command has found, for a terminal of 80 columns and
// for programs.
//
// What is printed may come from whoever can write to etcd. [Plain] makes it harmless;
// the other functions print what they are given.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Columns are those of the terminal that everything is made for.
const Columns = 80

// Plain returns the text as it is where a terminal can show it, and else quoted as in
// Go's source, by ASCII alone: control characters could move the cursor, and
// letters that are written from the right could show one name as another.
func Plain(text string) string {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return strconv.QuoteToASCII(text)
		}
	}
	if text == "" || text[0] == '"' || text[0] == ' ' || text[len(text)-1] == ' ' {
		return strconv.QuoteToASCII(text)
	}
	return text
}

// Clip is Plain of no more than most bytes of a text, with dots for the rest.
func Clip(text string, most int) string {
	if len(text) > most {
		return Plain(text[:most]) + ".."
	}
	return Plain(text)
}

// Count prints a number with commas: 14,212.
func Count(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// Plural prints a number and the word that fits it.
func Plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Count(n) + " " + many
}

// Wrap breaks a text at blanks into lines of [Columns]. Lines but the first are
// indented. A word that is longer has a line of its own.
func Wrap(text, indent string) string {
	var b strings.Builder
	width := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case width+1+len(word) > Columns:
			b.WriteString("\n" + indent)
			width = len(indent)
		default:
			b.WriteByte(' ')
			width++
		}
		b.WriteString(word)
		width += len(word)
	}
	return b.String()
}

// JSON writes a value as indented JSON.
func JSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// YAML writes what JSON writes, its fields in the same order.
func YAML(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil { // JSON is YAML
		return fmt.Errorf("JSON as YAML: %w", err)
	}
	block(&document)
	encoder := yaml.NewEncoder(w)
	encoder.SetIndent(2)
	if err := encoder.Encode(&document); err != nil {
		return err
	}
	return encoder.Close()
}

// block takes braces and quotation marks away where YAML needs none. Words that older
// readers of YAML take for booleans keep theirs.
func block(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode || !slices.Contains([]string{"yes", "no", "on", "off", "y", "n"}, strings.ToLower(n.Value)) {
		n.Style = 0
	}
	for _, child := range n.Content {
		block(child)
	}
}
