package kmsemulator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// params are the members of a request's JSON object. Unlike encoding/json alone
// they keep AWS's rules: names are case-sensitive, null is absent, and members
// that the operation does not know are ignored.
type params map[string]json.RawMessage

func parseParams(body []byte) (params, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, malformed("")
	}
	var p params
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, malformed("")
	}
	if p == nil {
		return nil, malformed("")
	}
	return p, nil
}

// decode fills the fields of the struct that into points to from the members
// of the same names. Absent members leave their fields alone.
func (p params) decode(into any) error {
	v := reflect.ValueOf(into).Elem()
	t := v.Type()
	for i := range t.NumField() {
		raw, ok := p[t.Field(i).Name]
		if !ok || string(raw) == "null" {
			continue
		}
		if err := decodeMember(raw, v.Field(i)); err != nil {
			return err
		}
	}
	return nil
}

func decodeMember(raw json.RawMessage, field reflect.Value) error {
	if field.Kind() == reflect.Slice && field.Type().Elem().Kind() == reflect.Struct {
		return decodeStructs(raw, field)
	}
	if _, isBlob := reflect.TypeAssert[[]byte](field); isBlob && raw[0] == '[' {
		return malformed("Start of list found where not expected")
	}
	if err := json.Unmarshal(raw, field.Addr().Interface()); err != nil {
		return malformed(typeText(err))
	}
	return nil
}

// decodeStructs reads a list of structures, whose members have the same rules.
func decodeStructs(raw json.RawMessage, field reflect.Value) error {
	var list []params
	if err := json.Unmarshal(raw, &list); err != nil {
		return malformed(typeText(err))
	}
	out := reflect.MakeSlice(field.Type(), len(list), len(list))
	for i, p := range list {
		if err := p.decode(out.Index(i).Addr().Interface()); err != nil {
			return err
		}
	}
	field.Set(out)
	return nil
}

// typeText says what was wrong with a member's type in the words of AWS's JSON
// servers.
func typeText(err error) string {
	var e *json.UnmarshalTypeError
	if !errors.As(err, &e) {
		return "" // base64 that is none has no text
	}
	from := map[string]string{
		"string": "STRING_VALUE", "bool": "BOOLEAN_VALUE", "object": "START_OBJECT", "array": "START_ARRAY",
	}[strings.Fields(e.Value)[0]]
	if from == "" {
		from = "NUMBER_VALUE"
	}
	switch from {
	case "START_OBJECT":
		return "Start of structure or map found where not expected."
	case "START_ARRAY":
		return "Start of list found where not expected"
	}
	return fmt.Sprintf("%s can not be converted to %s", from, targetName(e.Type))
}

func targetName(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String:
		return "a String"
	case reflect.Bool:
		return "a Boolean"
	case reflect.Int32, reflect.Int64:
		return "an Integer"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "a Blob"
		}
		return "a List"
	default:
		return "a Map"
	}
}

// checks collects what is wrong with the members of a request. KMS reports all
// of it at once, in one ValidationException.
type checks struct{ failed []string }

func (c *checks) fail(shown, member, constraint string) {
	c.failed = append(c.failed, fmt.Sprintf("Value %sat '%s' failed to satisfy constraint: %s", shown, member, constraint))
}

func (c *checks) err() error {
	switch n := len(c.failed); n {
	case 0:
		return nil
	case 1:
		return invalid("1 validation error detected: %s", c.failed[0])
	default:
		return invalid("%d validation errors detected: %s", n, strings.Join(c.failed, "; "))
	}
}

func quoted(s string) string { return "'" + s + "' " }

// required reports a missing member, and returns whether it is there.
func (c *checks) required(member string, present bool) bool {
	if !present {
		c.fail("null ", member, "Member must not be null")
	}
	return present
}

// text checks the length of a string, in characters; nil passes.
func (c *checks) text(member string, s *string, shortest, longest int) {
	if s == nil {
		return
	}
	switch n := utf8.RuneCountInString(*s); {
	case n < shortest:
		c.fail(quoted(*s), member, fmt.Sprintf("Member must have length greater than or equal to %d", shortest))
	case n > longest:
		c.fail(quoted(*s), member, fmt.Sprintf("Member must have length less than or equal to %d", longest))
	}
}

func (c *checks) pattern(member string, s *string, re *regexp.Regexp) {
	c.patternAs(member, s, re, re.String())
}

// patternAs is pattern for one that KMS writes in another form.
func (c *checks) patternAs(member string, s *string, re *regexp.Regexp, shown string) {
	if s != nil && !re.MatchString(*s) {
		c.fail(quoted(*s), member, "Member must satisfy regular expression pattern: "+shown)
	}
}

func (c *checks) enum(member string, s *string, values ...string) {
	if s != nil && !slices.Contains(values, *s) {
		c.fail(quoted(*s), member, "Member must satisfy enum value set: ["+strings.Join(values, ", ")+"]")
	}
}

func (c *checks) number(member string, n *int32, least, most int32) {
	if n == nil {
		return
	}
	shown := quoted(fmt.Sprint(*n))
	switch {
	case *n < least:
		c.fail(shown, member, fmt.Sprintf("Member must have value greater than or equal to %d", least))
	case *n > most:
		c.fail(shown, member, fmt.Sprintf("Member must have value less than or equal to %d", most))
	}
}

// secret checks the length of bytes that no message shows; nil passes.
func (c *checks) secret(member string, b []byte, longest int) { c.bytes("", member, b, longest) }

// blob checks the length of bytes that KMS shows as Java prints a buffer.
func (c *checks) blob(member string, b []byte, longest int) {
	c.bytes(fmt.Sprintf("'java.nio.HeapByteBuffer[pos=0 lim=%d cap=%d]' ", len(b), len(b)), member, b, longest)
}

func (c *checks) bytes(shown, member string, b []byte, longest int) {
	switch {
	case b == nil:
	case len(b) == 0:
		c.fail(shown, member, "Member must have length greater than or equal to 1")
	case len(b) > longest:
		c.fail(shown, member, fmt.Sprintf("Member must have length less than or equal to %d", longest))
	}
}

// keyID checks a mandatory key id, ARN or alias.
func (c *checks) keyID(member string, s *string) {
	if c.required(member, s != nil) {
		c.text(member, s, 1, 2048)
	}
}

// grantTokens checks the form of the tokens: at most 10, none empty.
func (c *checks) grantTokens(tokens []string) {
	if len(tokens) > 10 {
		c.fail(quoted("["+strings.Join(tokens, ", ")+"]"), "grantTokens", "Member must have length less than or equal to 10")
	}
	for i := range tokens {
		c.text("grantTokens", &tokens[i], 1, 8192)
	}
}
