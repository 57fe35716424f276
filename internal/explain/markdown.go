package explain

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// textLink is a link in a text, and titleLink one in a heading.
var textLink = regexp.MustCompile("^\\[((?:`[^`]*`|[^\\[\\]`])*)\\]\\(([^()\\s]*)\\)")

var titleLink = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)

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
		title = titleLink.ReplaceAllString(title, "$1")
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

// A printer makes a terminal's text of a page's Markdown. Links say where to read on,
// prose is wrapped, a table that is too wide becomes a list, and what is to be copied
// stays as it is.
type printer struct {
	page, docsURL string
	out           strings.Builder
	open          []string // lines of the paragraph or list item that is read
	rows          []string // lines of the table that is read
}

func format(text, page, docsURL string) string {
	p := &printer{page: page, docsURL: docsURL}
	fenced, empty := false, true
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		trimmed := strings.TrimSpace(line)
		fence := strings.HasPrefix(trimmed, "```")
		switch {
		case fence || fenced:
			p.flush()
			fenced = fenced != fence
			p.out.WriteString(line + "\n")
		case strings.HasPrefix(trimmed, "<!--") && strings.HasSuffix(trimmed, "-->"):
			p.flush() // a note to who edits the page
			continue
		case trimmed == "":
			p.flush()
			if !empty {
				p.out.WriteString("\n")
			}
		default:
			p.line(line, trimmed)
		}
		empty = trimmed == "" && !fenced
	}
	p.flush()
	return strings.Trim(p.out.String(), "\n") + "\n"
}

// line takes a line of prose, of a list or of a table.
func (p *printer) line(line, trimmed string) {
	switch {
	case strings.HasPrefix(trimmed, "|"):
		if len(p.open) > 0 {
			p.flush()
		}
		p.rows = append(p.rows, line)
	case strings.HasPrefix(trimmed, "#"):
		p.flush()
		p.write(line)
	case len(p.open) == 0 && strings.HasPrefix(line, "    "): // a block without a fence
		p.flush()
		p.out.WriteString(line + "\n")
	case item(trimmed) != "":
		p.flush()
		p.open = append(p.open, line)
	default:
		p.open = append(p.open, line)
	}
}

// flush writes what was read: it is complete.
func (p *printer) flush() {
	if len(p.open) > 0 {
		p.write(strings.Join(p.open, "\n"))
	}
	if len(p.rows) > 0 {
		p.table()
	}
	p.open, p.rows = nil, nil
}

// write writes a paragraph, an item or a heading.
func (p *printer) write(paragraph string) { p.out.WriteString(wrap(p.links(paragraph))) }

// table writes the rows as they are where they fit. Else each is an item, and where it
// has more than two cells, each further one an item below it, after its column's title.
func (p *printer) table() {
	fits := true
	for i, row := range p.rows {
		p.rows[i] = unbroken(p.links(row))
		fits = fits && utf8.RuneCountInString(p.rows[i]) <= width
	}
	if fits || len(p.rows) < 3 { // without a head it is something else
		p.out.WriteString(strings.Join(p.rows, "\n") + "\n")
		return
	}
	titles := cells(p.rows[0])
	for _, row := range p.rows[2:] {
		p.out.WriteString(asItem(titles, cells(row)))
	}
}

// asItem is a row as an item of a list.
func asItem(titles, row []string) string {
	if len(row) == 2 {
		return wrap("* " + strings.Join(slices.DeleteFunc(row, isEmpty), ": "))
	}
	var text strings.Builder
	text.WriteString(wrap("* " + row[0]))
	for i, cell := range row {
		switch {
		case i == 0 || cell == "":
		case i < len(titles) && titles[i] != "":
			text.WriteString(wrap("  - " + titles[i] + ": " + cell))
		default:
			text.WriteString(wrap("  - " + cell))
		}
	}
	return text.String()
}

func isEmpty(text string) bool { return text == "" }

// cells are those of a row. A bar behind a backslash is a character.
func cells(row string) []string {
	const bar = "\x00"
	row = strings.ReplaceAll(strings.Trim(strings.TrimSpace(row), "|"), `\|`, bar)
	found := strings.Split(row, "|")
	for i, cell := range found {
		found[i] = strings.NewReplacer(bar, "|", "&lt;", "<", "<br>", " ").Replace(strings.TrimSpace(cell))
	}
	return found
}

// item is the mark that a list's item or a heading begins with, "" for other lines.
func item(line string) string {
	mark, _, is := strings.Cut(line, " ")
	if is && mark != "" && strings.Trim(mark, "#") == "" {
		return mark + " "
	}
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
	mark := item(strings.TrimSpace(paragraph))
	hanging := indent + strings.Repeat(" ", len(mark))
	var out strings.Builder
	line := indent
	begun := false
	for _, word := range unbreakable(paragraph) {
		if begun && line+" " != indent+mark && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
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
func (p *printer) links(text string) string {
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
			if m := textLink.FindStringSubmatch(text); m != nil {
				out.WriteString(p.inWords(m[1], m[2]))
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
func (p *printer) inWords(text, target string) string {
	said := strings.ReplaceAll(text, "**", "")
	if strings.Contains(target, "://") {
		if text == target {
			return said
		}
		return said + " (" + target + ")"
	}
	file, id, _ := strings.Cut(target, "#")
	at := p.page
	if file != "" {
		at = path.Join(path.Dir(p.page), file)
	}
	switch {
	case strings.EqualFold(text, id): // a code
		return said
	case strings.HasPrefix(at, "../") || path.Ext(at) != ".md":
		return said + p.outside(said, strings.TrimPrefix(at, "../"), id)
	}
	name := strings.TrimSuffix(path.Base(at), ".md")
	if id != "" {
		name += "#" + id
	}
	return said + " (explain" + noBreak + name + ")"
}

// outside tells of a file that is not among the pages: its address where that of the
// pages tells it, else that it is in the source.
func (p *printer) outside(said, file, id string) string {
	place := file
	if id != "" {
		place += "#" + id
	}
	if source, ok := strings.CutSuffix(strings.TrimRight(p.docsURL, "/"), "/docs"); ok {
		return " (" + source + "/" + place + ")"
	}
	if said == place {
		return " (in the source)"
	}
	return " (" + place + " in the source)"
}
