package kmsserver

import (
	"errors"
	"strings"
	"unicode"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// maxText bounds the text of an error for callers and logs. Its parts are quoted and
// cut where they are made; this holds whatever they add up to.
const maxText = 4 << 10

// textOf is the text of an error, whose cause is e: one line, of printable
// characters. An error without a cause of ours is told in the cause's words.
func textOf(err error, e *cause.Error) string {
	if _, ok := errors.AsType[*cause.Error](err); !ok {
		err = e
	}
	text := err.Error()
	if len(text) > maxText {
		text = text[:maxText] + "..."
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}
