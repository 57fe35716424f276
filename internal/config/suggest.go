package config

import (
	"regexp"
	"strings"

	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/typo"
)

// What a word without its flag looks like.
var (
	fileWord   = regexp.MustCompile(`\.(ya?ml|json)$`)
	keyWord    = regexp.MustCompile(`^(arn:|alias/)`)
	socketWord = regexp.MustCompile(`^(/|@|unix:)`)
)

// didYouMean names the flag that was probably meant, where there is one.
func didYouMean(set *pflag.FlagSet, name string) string {
	var names, begin []string
	set.VisitAll(func(flag *pflag.Flag) {
		names = append(names, flag.Name)
		if !flag.Hidden && strings.HasPrefix(flag.Name, name) {
			begin = append(begin, flag.Name)
		}
	})
	best := Nearest(name, names)
	switch {
	case best != "":
		return "; did you mean --" + standsFor(set, set.Lookup(best)).Name + "?"
	case len(begin) == 1:
		return "; did you mean --" + begin[0] + "?"
	}
	return ": " + flagsThere(set)
}

// flagsThere names the flags of a set, where they are few.
func flagsThere(set *pflag.FlagSet) string {
	const few = 6
	var names []string
	set.VisitAll(func(flag *pflag.Flag) {
		if !flag.Hidden && flag.Name != "help" { // which each command has
			names = append(names, "--"+flag.Name)
		}
	})
	switch {
	case len(names) == 0:
		return "this command has none"
	case len(names) > few:
		return "--help lists them"
	}
	return "there are " + enumerated(names)
}

// meantByWord names the flag that a word without a dash was probably meant for, where
// there is one.
func meantByWord(set *pflag.FlagSet, word string) string {
	name, value, _ := strings.Cut(word, "=")
	has := func(flag string) bool { return set.Lookup(flag) != nil }
	var names []string
	set.VisitAll(func(flag *pflag.Flag) { names = append(names, flag.Name) })
	switch {
	case has(name):
		return "; did you mean --" + name + "?"
	case value != "" && Nearest(name, names) != "":
		return "; did you mean --" + standsFor(set, set.Lookup(Nearest(name, names))).Name + "?"
	case word == "true" || word == "false":
		return "; a switch has its value behind an equals sign, such as --debug=" + word
	case has("config") && fileWord.MatchString(word):
		return "; did you mean --config?"
	case has("key") && keyWord.MatchString(word):
		return "; did you mean --key?"
	case has("listen") && socketWord.MatchString(word):
		return "; did you mean --listen?"
	}
	return ""
}

// Nearest is the name that was meant by one that is none of them; "" where none is
// near: two slips are many in a short word, which is then another word.
func Nearest(name string, names []string) string {
	const most = 2
	best, least := "", most+1
	for _, one := range names {
		near := min(most, (min(len(name), len(one))+1)/3)
		if d := typo.Distance(strings.ToLower(name), strings.ToLower(one)); d < least && d <= near {
			best, least = one, d
		}
	}
	return best
}
