package main

import (
	"cmp"
	"math"
	"slices"
)

// quantile returns the smallest value that at least q of all are at or below;
// 0 of none.
func quantile[T cmp.Ordered](values []T, q float64) (none T) {
	if len(values) == 0 {
		return none
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// median is the lower one of two.
func median[T cmp.Ordered](values []T) T { return quantile(values, .5) }
