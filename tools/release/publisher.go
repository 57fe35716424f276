package main

import (
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

// A publisher is whom users of what is built are led to, with questions, faults and for
// pages. An empty field leads nowhere, and never to somebody who has not built it.
type publisher struct {
	docs       string // address at which docs is published
	project    string // address of the project
	maintainer string // of the packages: a name, and an address in angle brackets behind it
}

// unnamed maintains the packages of a build that names nobody.
const unnamed = "The builder of this package"

// installedDocs is where deploy/systemd's units find their pages: where packages have them.
const installedDocs = "/usr/share/doc/" + program + "/"

// flags has a command line say who it is.
func (p *publisher) flags(set *flag.FlagSet) {
	set.StringVar(&p.docs, "docs-url", "", "`URL` at which docs is published: what links of the program, of the alerts and of the units lead to; default: they have none")
	set.StringVar(&p.project, "project-url", "", "`URL` of the project: home page of the packages and source of the image; default: they have none")
	set.StringVar(&p.maintainer, "maintainer", "", "`WHO` maintains the packages, such as 'A Team <team@example.org>'; default: "+unnamed)
}

// check refuses what would be no link, or no name, and gives all the same form.
func (p *publisher) check() error {
	p.docs, p.project = strings.TrimRight(p.docs, "/"), strings.TrimRight(p.project, "/")
	p.maintainer = strings.TrimSpace(p.maintainer)
	return errors.Join(checkURL("--docs-url (DOCS_URL)", p.docs), checkURL("--project-url (PROJECT_URL)", p.project), checkMaintainer(p.maintainer))
}

// variables are those of the Makefile that say the same.
func (p publisher) variables() []string {
	return []string{"DOCS_URL=" + p.docs, "PROJECT_URL=" + p.project, "MAINTAINER=" + p.maintainer}
}

// contact is what packages give as their maintainer.
func (p publisher) contact() string {
	if p.maintainer == "" {
		return unnamed
	}
	return p.maintainer
}

// unit is a unit of deploy/systemd with links to where the pages are: published, and in
// the directory that a package installs. Without either it has no link.
func (p publisher) unit(source, name, directory string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(source, "deploy", "systemd", name))
	if err != nil {
		return nil, err
	}
	const page = "docs/systemd.md"
	before, after, found := strings.Cut(string(data), "Documentation=file:"+installedDocs+page+"\n")
	if !found {
		return nil, fmt.Errorf("%s has no Documentation=file:%s%s", name, installedDocs, page)
	}
	var links []string
	if p.docs != "" {
		links = append(links, p.docs+strings.TrimPrefix(page, "docs"))
	}
	if directory != "" {
		links = append(links, "file:"+directory+page)
	}
	if len(links) == 0 {
		return []byte(before + after), nil
	}
	return []byte(before + "Documentation=" + strings.Join(links, " ") + "\n" + after), nil
}

// checkURL refuses what would be no link, or would be more than one word to make, the
// shell, the linker and systemd.
func checkURL(option, text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	odd := strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:/@+") != ""
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || odd {
		return fmt.Errorf("%s %q: want an address such as https://example.org/kms/docs, without a query", option, text)
	}
	return nil
}

// checkMaintainer refuses what would be another field of a package, or another word to make.
func checkMaintainer(text string) error {
	odd := func(r rune) bool { return unicode.IsControl(r) || r == '$' || r == '#' }
	name, address, given := strings.Cut(text, "<")
	if strings.ContainsFunc(text, odd) || given && (strings.TrimSpace(name) == "" || !strings.HasSuffix(address, ">")) {
		return fmt.Errorf("--maintainer (MAINTAINER) %q: want one line such as 'A Team <team@example.org>', without $ and #", text)
	}
	return nil
}
