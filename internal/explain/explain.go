// Package explain finds what the documentation says of a name that an operator has
// read somewhere: a code, an alert or a page.
//
// It reads the pages as they are written. A code is a heading of a page of
// codes, an alert is a runbook. Names are taken in any case. It is safe for
// concurrent use, and keeps nothing between two calls.
package explain

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/docs"
	"sigs.k8s.io/aws-encryption-provider/internal/typo"
)

var (
	codeForm    = regexp.MustCompile(`^KMS[0-9]{4}$`)
	outsideForm = regexp.MustCompile(outside)
)

// A Topic is something that a page explains.
type Topic struct {
	Name  string // as it is written, such as "KMS0101"
	Title string // one line
	page  string
	id    string // the heading of the section; "" for the whole page
}

// Topics are all that can be asked for by a name of their own.
type Topics struct {
	Codes  []Topic // of failing calls
	Doctor []Topic // codes of what only doctor finds
	Status []Topic // codes of what only status finds
	Alerts []Topic
	Pages  []Topic
}

const (
	runbooks    = "runbooks"
	outside     = `^\.\./[A-Z]+\.md(#|$)` // the README and its like of the source, as pages link to them
	alertPrefix = "EncryptionProvider"
)

// All returns the topics, sorted by name.
func All(files fs.FS) (Topics, error) {
	var t Topics
	err := eachPage(files, "*.md", func(name, text string) {
		t.Pages = append(t.Pages, Topic{Name: strings.TrimSuffix(name, ".md"), Title: title(text), page: name})
		switch name {
		case docs.Errors:
			t.Codes = codes(name, text)
		case docs.DoctorCodes:
			t.Doctor = codes(name, text)
		case docs.StatusCodes:
			t.Status = codes(name, text)
		}
	})
	if err != nil {
		return t, err
	}
	t.Status = slices.DeleteFunc(t.Status, func(s Topic) bool {
		return slices.ContainsFunc(t.Doctor, func(d Topic) bool { return d.Name == s.Name })
	})
	err = eachPage(files, runbooks+"/*.md", func(name, text string) {
		t.Alerts = append(t.Alerts, Topic{Name: strings.TrimSuffix(path.Base(name), ".md"), Title: firstSentence(section(text, "cause")), page: name})
	})
	return t, err
}

// eachPage visits the pages of a pattern by name.
func eachPage(files fs.FS, pattern string, visit func(name, text string)) error {
	names, err := fs.Glob(files, pattern)
	if err != nil {
		return err
	}
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		visit(name, string(text))
	}
	return nil
}

// List returns the topics of all kinds, kind by kind.
func (t Topics) List() []Topic { return slices.Concat(t.Codes, t.Doctor, t.Status, t.Alerts, t.Pages) }

// codes are the sections of a page of codes.
func codes(page, text string) []Topic {
	var found []Topic
	all, code := headings(text), codeForm
	for _, h := range all {
		if code.MatchString(h.title) {
			found = append(found, Topic{Name: h.title, Title: firstSentence(sectionOf(text, all, h.id)), page: page, id: h.id})
		}
	}
	slices.SortFunc(found, func(a, b Topic) int { return cmp.Compare(a.Name, b.Name) })
	return found
}

// An UnknownError is a name that nothing has.
type UnknownError struct {
	Name    string
	Nearest []string // names that it may have been meant for, the nearest first
}

func (e *UnknownError) Error() string {
	text := fmt.Sprintf("nothing is called %.64q", e.Name)
	if len(e.Nearest) > 0 {
		text += ": did you mean " + strings.Join(e.Nearest, ", ") + "?"
	}
	return text
}

// Text returns what the documentation says of a name, for a terminal: the section of
// a code, the runbook of an alert with or without "EncryptionProvider" before its name,
// a page, or a section of a page as links write it: "rotation#when-an-old-key-may-go",
// "docs/rotation.md" and "../rotation.md" too. An unknown name is an [*UnknownError].
//
// docsURL is where the directory of the pages is published; "" for nowhere. Where it
// ends with /docs, what the pages link to in the source beside it is found there too.
func Text(files fs.FS, name, docsURL string) (string, error) {
	topics, err := All(files)
	if err != nil {
		return "", err
	}
	asked, heading, _ := strings.Cut(plain(name), "#")
	if outsideForm.MatchString(name) { // pages have such names too
		return "", &UnknownError{Name: name, Nearest: called(topics.Pages, heading)}
	}
	all := topics.List()
	i := slices.IndexFunc(all, func(t Topic) bool { return slices.Contains(t.names(), asked) })
	if i < 0 {
		return "", &UnknownError{Name: name, Nearest: nearest(asked, all)}
	}
	topic := all[i]
	text, err := fs.ReadFile(files, topic.page)
	if err != nil {
		return "", err
	}
	if heading == "" {
		heading = topic.id
	}
	shown := string(text)
	if heading != "" {
		if shown = section(shown, heading); shown == "" {
			near := headingsNear(topic.Name, heading, string(text))
			return "", &UnknownError{Name: name, Nearest: append(called(topics.Pages, heading), near...)}
		}
	}
	return format(shown, topic.page, docsURL), nil
}

// plain is a name as it is compared: the path of a link and the punctuation of a
// sentence around it do not count.
func plain(name string) string {
	name = strings.ToLower(strings.Trim(name, " \t\n\"'`.,:;()"))
	page, heading, cut := strings.Cut(name, "#")
	page = strings.TrimSuffix(path.Base(page), ".md")
	if cut {
		return page + "#" + heading
	}
	return page
}

// names are those that the topic can be asked by, as they are compared.
func (t Topic) names() []string {
	name := strings.ToLower(t.Name)
	if short, is := strings.CutPrefix(t.Name, alertPrefix); is {
		return []string{name, strings.ToLower(short)}
	}
	return []string{name}
}

// few is how many names are suggested at most.
const few = 3

// nearest are the names that differ little, or of which only a part was written.
func nearest(asked string, topics []Topic) []string {
	type guess struct {
		name     string
		distance int
	}
	var guesses []guess
	for _, t := range topics {
		best := -1
		for _, name := range t.names() {
			d := typo.Distance(asked, name)
			if len(asked) > 2 && strings.Contains(name, asked) {
				d = min(d, 1)
			}
			if d <= max(2, len(name)/4) && (best < 0 || d < best) {
				best = d
			}
		}
		if best >= 0 {
			guesses = append(guesses, guess{t.Name, best})
		}
	}
	slices.SortStableFunc(guesses, func(a, b guess) int { return cmp.Compare(a.distance, b.distance) })
	var names []string
	for _, g := range guesses[:min(few, len(guesses))] {
		names = append(names, g.name)
	}
	return names
}

// called are the pages that have the name of a heading.
func called(pages []Topic, heading string) []string {
	var names []string
	for _, page := range pages {
		if heading != "" && strings.EqualFold(page.Name, heading) {
			names = append(names, page.Name)
		}
	}
	return names
}

func headingsNear(page, heading, text string) []string {
	var topics []Topic
	for _, h := range headings(text) {
		topics = append(topics, Topic{Name: h.id})
	}
	names := nearest(heading, topics)
	for i := range names {
		names[i] = page + "#" + names[i]
	}
	if names == nil {
		names = []string{page}
	}
	return names
}
