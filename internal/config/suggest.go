package config

import (
	"strings"

	"github.com/spf13/pflag"
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
		if d := distance(name, one); d < least {
			best, least = one, d
		}
	}
	return best
}

// distance is Levenshtein's, bounded by what a person would call a typo.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
