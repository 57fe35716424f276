// Package docs is the project's documentation: the pages of this directory, linked
// into the program so that they can be read where there is no network.
//
// It is a leaf. Nothing is read or copied before somebody asks for a page: the
// linker puts the files into read-only memory.
package docs

import (
	"embed"
	"io/fs"
	"strings"
)

//go:embed *.md runbooks/*.md
var files embed.FS

// Files are the pages, by their paths below this directory.
func Files() fs.FS { return files }

// The pages that codes lead to.
const (
	Errors      = "errors.md"       // of failing calls
	DoctorCodes = "doctor-codes.md" // of what only the doctor finds
	StatusCodes = "status-codes.md" // of what only status finds
)

// Code is where a page explains a code: the path of the page, and its heading.
func Code(page, id string) string { return page + "#" + strings.ToLower(id) }

// Runbook is the path of an alert's page.
func Runbook(alert string) string { return "runbooks/" + alert + ".md" }

// URL is the address of a path below this directory where the directory is published
// under base. It is "" where base is: this build's pages are published nowhere.
func URL(base, path string) string {
	if base == "" {
		return ""
	}
	return strings.TrimRight(base, "/") + "/" + path
}
