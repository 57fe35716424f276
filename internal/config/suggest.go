package config

import (
	"strings"

	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/typo"
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
	return ""
}

// Nearest is the name that was meant by one that is none of them; "" where none is
// near.
func Nearest(name string, names []string) string {
	best, least := "", 3
	for _, one := range names {
		if d := typo.Distance(name, one); d < least {
			best, least = one, d
		}
	}
	return best
}
