package kmsemulator

import (
	"encoding/base64"
	"slices"
	"strings"
)

func (c *checks) paging(limit *int32, marker *string, most int32) {
	c.number("limit", limit, 1, most)
	c.text("marker", marker, 1, 1024)
}

// page cuts one page out of a list that is sorted by the entries' names. The
// marker names the last entry of the page before, so that a page begins at the
// right place even where entries have come or gone meanwhile. The returned
// marker is empty on the last page.
func page[E any](all []E, limit *int32, marker *string, usual int32, name func(E) string) ([]E, string, error) {
	rest := all
	if marker != nil {
		after, err := readMarker(*marker)
		if err != nil {
			return nil, "", err
		}
		i, found := slices.BinarySearchFunc(all, after, func(e E, s string) int { return strings.Compare(name(e), s) })
		if found {
			i++
		}
		rest = all[i:]
	}
	n := int(usual)
	if limit != nil {
		n = int(*limit)
	}
	if len(rest) <= n {
		return append([]E{}, rest...), "", nil
	}
	return rest[:n], writeMarker(name(rest[n-1])), nil
}

// markerPrefix tells the emulator's own markers from made-up ones.
const markerPrefix = "page:"

func writeMarker(last string) string {
	return base64.StdEncoding.EncodeToString([]byte(markerPrefix + last))
}

func readMarker(marker string) (string, error) {
	text, err := base64.StdEncoding.Strict().DecodeString(marker)
	last, ok := strings.CutPrefix(string(text), markerPrefix)
	if err != nil || !ok {
		return "", refuse("InvalidMarkerException", "Could not deserialize marker '%s'", marker)
	}
	return last, nil
}
