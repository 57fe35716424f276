package explain

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A heading of a page.
type heading struct {
	level int
	id    string // by which links name it
	title string
	at    int // its first byte
}

// headings are those of a page, with the ids that GitHub gives them.
func headings(text string) []heading {
	var found []heading
	taken := map[string]bool{}
	fenced, at := false, 0
	for line := range strings.Lines(text) {
		hashes, words, is := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case strings.HasPrefix(hashes, "```"):
			fenced = !fenced
		case !fenced && is && hashes != "" && strings.Trim(hashes, "#") == "":
			h := heading{level: len(hashes), title: words, at: at}
			slug := slug(words)
			h.id = slug
			for n := 1; taken[h.id]; n++ {
				h.id = fmt.Sprintf("%s-%d", slug, n)
			}
			taken[h.id] = true
			found = append(found, h)
		}
		at += len(line)
	}
	return found
}

func slug(title string) string {
	if strings.Contains(title, "](") {
		title = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(title, "$1")
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, title)
}

// section is a heading and what stands below it, up to the next of its level or a
// higher one; "" where there is no such heading.
func section(text, id string) string { return sectionOf(text, headings(text), id) }

func sectionOf(text string, all []heading, id string) string {
	for i, h := range all {
		if h.id != id {
			continue
		}
		for _, next := range all[i+1:] {
			if next.level <= h.level {
				return text[h.at:next.at]
			}
		}
		return text[h.at:]
	}
	return ""
}

// title is a page's first heading.
func title(text string) string {
	if all := headings(text); len(all) > 0 {
		return all[0].title
	}
	return ""
}

// firstSentence is that of a section, below its heading.
func firstSentence(section string) string {
	_, body, _ := strings.Cut(section, "\n")
	paragraph, _, _ := strings.Cut(strings.TrimSpace(body), "\n\n")
	paragraph = strings.Join(strings.Fields(paragraph), " ")
	sentence, _, _ := strings.Cut(paragraph+" ", ". ")
	return strings.TrimSuffix(strings.TrimSpace(sentence), ".")
}

// width is that of a terminal: lines of prose are wrapped at it.
const width = 80

// format makes a terminal's text of a page's Markdown. Links say where to read on,
// prose is wrapped, and what is to be copied stays as it is.
func format(text, page string) string {
	var out strings.Builder
	var open []string // lines of the paragraph or list item that is read
	flush := func() {
		if len(open) > 0 {
			out.WriteString(wrap(links(strings.Join(open, "\n"), page)))
		}
		open = nil
	}
	fenced, empty := false, true
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		trimmed := strings.TrimSpace(line)
		fence := strings.HasPrefix(trimmed, "```")
		switch {
		case fence || fenced:
			flush()
			fenced = fenced != fence
			out.WriteString(line + "\n")
		case strings.HasPrefix(trimmed, "<!--") && strings.HasSuffix(trimmed, "-->"):
			flush() // a note to who edits the page
			continue
		case trimmed == "":
			flush()
			if !empty {
				out.WriteString("\n")
			}
		case strings.HasPrefix(trimmed, "#"), strings.HasPrefix(trimmed, "|"):
			flush()
			out.WriteString(unbroken(links(line, page)) + "\n")
		case len(open) == 0 && strings.HasPrefix(line, "    "): // a block without a fence
			out.WriteString(line + "\n")
		case item(trimmed) != "":
			flush()
			open = append(open, line)
		default:
			open = append(open, line)
		}
		empty = trimmed == "" && !fenced
	}
	flush()
	return strings.Trim(out.String(), "\n") + "\n"
}

// item is the mark that a list's item begins with, "" for other lines.
func item(line string) string {
	mark, _, is := strings.Cut(line, " ")
	number := strings.TrimSuffix(mark, ".")
	if is && (mark == "*" || mark == "-" || number != mark && number != "" && strings.Trim(number, "0123456789") == "") {
		return mark + " "
	}
	return ""
}

// wrap breaks a paragraph or an item into lines of the width, and never inside of
// what stands between backticks.
func wrap(paragraph string) string {
	indent := paragraph[:len(paragraph)-len(strings.TrimLeft(paragraph, " "))]
	hanging := indent + strings.Repeat(" ", len(item(strings.TrimSpace(paragraph))))
	var out strings.Builder
	line := indent
	begun := false
	for _, word := range unbreakable(paragraph) {
		if begun && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			out.WriteString(line + "\n")
			line, begun = hanging, false
		}
		if begun {
			line += " "
		}
		line, begun = line+word, true
	}
	return unbroken(out.String() + line + "\n")
}

// unbreakable are the words of a text. What stands between backticks is one.
func unbreakable(text string) []string {
	code := false
	return strings.FieldsFunc(text, func(r rune) bool {
		if r == '`' {
			code = !code
		}
		return !code && (r == ' ' || r == '\n')
	})
}

// noBreak stands for a space that lines are not broken at.
const noBreak = "\u00a0"

func unbroken(text string) string { return strings.ReplaceAll(text, noBreak, " ") }

// links writes the links of a text as words, and takes away the asterisks of what is
// bold.
func links(text, page string) string {
	link := regexp.MustCompile("^\\[((?:`[^`]*`|[^\\[\\]`])*)\\]\\(([^()\\s]*)\\)")
	var out strings.Builder
	for text != "" {
		n := 1
		switch {
		case text[0] == '`':
			if end := strings.IndexByte(text[1:], '`'); end >= 0 {
				n = end + 2
				out.WriteString(strings.ReplaceAll(text[:n], "\n", " "))
				text = text[n:]
				continue
			}
		case strings.HasPrefix(text, "**"):
			text = text[2:]
			continue
		case text[0] == '[':
			if m := link.FindStringSubmatch(text); m != nil {
				out.WriteString(inWords(m[1], m[2], page))
				text = text[len(m[0]):]
				continue
			}
		}
		out.WriteString(text[:n])
		text = text[n:]
	}
	return out.String()
}

// inWords is a link of a page for somebody who cannot click. A page of ours is told
// as the command that prints it; what a code's name leads to needs no telling.
func inWords(text, target, page string) string {
	said := strings.ReplaceAll(text, "**", "")
	if strings.Contains(target, "://") {
		if text == target {
			return said
		}
		return said + " (" + target + ")"
	}
	file, id, _ := strings.Cut(target, "#")
	at := page
	if file != "" {
		at = path.Join(path.Dir(page), file)
	}
	if strings.EqualFold(text, id) { // a code
		return said
	}
	if strings.HasPrefix(at, "../") || path.Ext(at) != ".md" { // not among the pages
		at = strings.TrimPrefix(at, "../")
		if said == at {
			return said
		}
		return said + " (" + at + ")"
	}
	name := strings.TrimSuffix(path.Base(at), ".md")
	if id != "" {
		name += "#" + id
	}
	return said + " (explain" + noBreak + name + ")"
}
