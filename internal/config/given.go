package config

import (
	"bytes"
	"encoding/csv"
	"strings"

	"github.com/spf13/pflag"
)

// Args are the flags of serving that were given, on the command line or in the
// environment, so that they say the same again. It is called after
// [Flags.Parse].
func (f *Flags) Args() []string { return f.args(func(string) bool { return true }) }

// args are those of [Flags.Args] whose flag is wanted.
func (f *Flags) args(wanted func(flag string) bool) []string {
	var args []string
	for _, name := range f.names {
		flag := f.set.Lookup(name)
		if !flag.Changed || !wanted(name) {
			continue
		}
		for _, value := range occurrences(flag.Value) {
			args = append(args, "--"+name+"="+value)
		}
	}
	return args
}

// emptyAnnotation marks flags of serving: that an empty value counts as none is old, and a
// pod whose template fills nothing in goes on starting. What every other flag asks or
// keeps out would vanish with a variable that is not set.
const emptyAnnotation = "may-be-empty"

func mayBeEmpty(flag *pflag.Flag) bool { return flag.Annotations[emptyAnnotation] != nil }

// empty are the flags of serving that were given without a text, and count as left out. A
// variable without one is as good as none.
func (f *Flags) empty() []string {
	var names []string
	for _, name := range f.names {
		flag := f.set.Lookup(name)
		context := name == "encryption-context" && len(f.contexts) == 1 && f.contexts[0] == ""
		if flag.Changed && !f.fromEnv[name] && (context || flag.Value.Type() == "string" && flag.Value.String() == "") {
			names = append(names, name)
		}
	}
	return names
}

// occurrences are the texts that, one after the other, set a value as it is.
func occurrences(value pflag.Value) []string {
	list, ok := value.(pflag.SliceValue)
	switch {
	case !ok:
		return []string{value.String()}
	case value.Type() == "stringArray": // each occurrence is one element
		return list.GetSlice()
	}
	var line bytes.Buffer
	w := csv.NewWriter(&line)
	_ = w.Write(list.GetSlice()) // into memory
	w.Flush()
	return []string{strings.TrimSuffix(line.String(), "\n")}
}
