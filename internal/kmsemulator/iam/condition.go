package iam

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A condition is one operator, one key, and the values that it may have.
type condition struct {
	set    string // "", "forallvalues" or "foranyvalue"
	op     string // lower case
	key    string // lower case
	values []string
}

func newCondition(op, key string, values []string) (condition, error) {
	c := condition{op: strings.ToLower(op), key: strings.ToLower(key), values: values}
	if set, rest, ok := strings.Cut(c.op, ":"); ok {
		c.set, c.op = set, rest
	}
	several, known := keys()[c.key]
	switch {
	case !known && !slices.ContainsFunc(prefixes(), func(p string) bool { return strings.HasPrefix(c.key, p) }):
		return c, fmt.Errorf("condition key %q is not known", key)
	case len(values) == 0:
		return c, fmt.Errorf("condition on %s: no value", key)
	case c.op == "null" && c.set == "":
		if len(values) != 1 || values[0] != "true" && values[0] != "false" {
			return c, fmt.Errorf("condition on %s: Null takes true or false", key)
		}
		return c, nil
	case c.set != "" && c.set != "forallvalues" && c.set != "foranyvalue":
		return c, fmt.Errorf("operator %q is not known", op)
	// AWS evaluates a wrong pairing as well, to something that nobody meant.
	case several != (c.set != ""):
		return c, fmt.Errorf("condition on %s: ForAllValues or ForAnyValue go with keys of several values, and only with them", key)
	}
	switch c.op {
	case "stringequals", "stringnotequals", "stringlike", "arnequals", "arnlike":
		return c, nil
	}
	return c, fmt.Errorf("operator %q is not known", op)
}

// holds reports whether a request meets the condition.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-logic-multiple-context-keys-or-values.html
func (c condition) holds(r *Request) bool {
	got, there := r.keys[c.key]
	if c.op == "null" {
		return there == (c.values[0] == "false")
	}
	switch c.set {
	case "forallvalues": // also where there is none
		for _, v := range got {
			if !c.matches(v, r) {
				return false
			}
		}
		return true
	case "foranyvalue":
		for _, v := range got {
			if c.matches(v, r) {
				return true
			}
		}
		return false
	}
	if !there {
		return c.op == "stringnotequals"
	}
	return c.matches(got[0], r)
}

// matches reports whether one of the condition's values fits; of a negated operator
// none may.
func (c condition) matches(got string, r *Request) bool {
	for _, want := range c.values {
		switch c.op {
		case "stringequals":
			if r.fill(want, false) == got {
				return true
			}
		case "stringnotequals":
			if r.fill(want, false) == got {
				return false
			}
		case "stringlike":
			if like(r.fill(want, true), got) {
				return true
			}
		default: // ArnEquals and ArnLike are the same
			if likeARN(r.fill(want, true), got) {
				return true
			}
		}
	}
	return c.op == "stringnotequals"
}

// fill puts in what a policy's variables stand for. In a pattern their values are
// words.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
func (r *Request) fill(text string, pattern bool) string {
	var out strings.Builder
	for {
		before, rest, ok := strings.Cut(text, "${")
		out.WriteString(before)
		if !ok {
			return out.String()
		}
		name, after, ok := strings.Cut(rest, "}")
		if !ok {
			out.WriteString("${" + rest)
			return out.String()
		}
		word, known := r.variable(name)
		switch {
		case !known:
			return "\x00" // an unknown variable makes the text match nothing
		case pattern:
			word = strings.NewReplacer("*", `\*`, "?", `\?`, `\`, `\\`).Replace(word)
		}
		out.WriteString(word)
		text = after
	}
}

func (r *Request) variable(name string) (string, bool) {
	switch name {
	case "*", "?", "$":
		return name, true
	}
	values, ok := r.keys[strings.ToLower(name)]
	if !ok || len(values) != 1 {
		return "", false
	}
	return values[0], true
}

// likeARN matches each of an ARN's six parts on its own: no * reaches over a colon
// before the last.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html#Conditions_ARN
func likeARN(pattern, arn string) bool {
	want, got := strings.SplitN(pattern, ":", 6), strings.SplitN(arn, ":", 6)
	return slices.EqualFunc(want, got, like)
}

// like matches a pattern with * and ?, which a backslash makes words.
func like(pattern, text string) bool {
	var form strings.Builder
	form.WriteString("(?s)^")
	escaped := false
	for _, c := range pattern {
		switch {
		case !escaped && c == '\\':
			escaped = true
			continue
		case !escaped && c == '*':
			form.WriteString(".*")
		case !escaped && c == '?':
			form.WriteString(".")
		default:
			form.WriteString(regexp.QuoteMeta(string(c)))
		}
		escaped = false
	}
	form.WriteString("$")
	return regexp.MustCompile(form.String()).MatchString(text)
}
