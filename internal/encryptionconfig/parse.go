package encryptionconfig

import (
	"cmp"
	"slices"
)

// maxMistakes is how many are told: who has mended so many asks again.
const maxMistakes = 20

// Parse reads a file, YAML or JSON, that kube-apiserver takes. The error is of type
// [Mistakes].
func Parse(data []byte) (*Configuration, error) {
	c, mistakes, _ := Examine(data)
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	return c, nil
}

// Examine reads a file, and returns what kube-apiserver would refuse and what it
// takes although nobody can have meant it. The configuration is nil where the file
// cannot be decoded at all.
func Examine(data []byte) (c *Configuration, refused, warnings Mistakes) {
	c, all := examine(data)
	if c == nil {
		return nil, some(all), nil
	}
	for _, m := range all {
		if m.onReload { // many clusters never reload it
			warnings = append(warnings, m)
			continue
		}
		refused = append(refused, m)
	}
	if len(refused) == 0 {
		warnings = append(warnings, placed(c.warnings(), data)...)
		if line := nextDocument(data); line > 0 {
			warnings = append(warnings, Mistake{Line: line, Text: "has more than one YAML document: kube-apiserver reads the first, and all behind it has no effect", Rule: Unread})
		}
	}
	return c, some(refused), some(warnings)
}

// Refused returns what kube-apiserver would refuse of a file, with or without
// --encryption-provider-config-automatic-reload.
func Refused(data []byte, reload bool) Mistakes {
	_, all := examine(data)
	return some(slices.DeleteFunc(all, func(m Mistake) bool { return m.onReload && !reload }))
}

func examine(data []byte) (*Configuration, Mistakes) {
	if len(data) == 0 {
		return nil, Mistakes{{Text: "is empty"}}
	}
	root, mistakes := parse(data)
	if len(mistakes) > 0 {
		if unread := templated(data); len(unread) > 0 {
			mistakes = unread
		}
		return nil, told(mistakes, data)
	}
	var d decoder
	c := d.file(root)
	if len(d.mistakes) > 0 {
		return nil, told(d.mistakes, data)
	}
	return c, told(c.check(d.nulls), data)
}

// told are mistakes with their lines, in the order of the file.
func told(mistakes Mistakes, data []byte) Mistakes {
	mistakes = because(placed(mistakes, data), data)
	slices.SortStableFunc(mistakes, func(a, b Mistake) int { return cmp.Compare(a.Line, b.Line) })
	return mistakes
}

// some are the first of many.
func some(mistakes Mistakes) Mistakes {
	if len(mistakes) > maxMistakes {
		return append(mistakes[:maxMistakes:maxMistakes], Mistake{Text: "there are more: mend these first"})
	}
	return mistakes
}
