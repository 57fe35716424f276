package main

import "testing"

func TestQuantile(t *testing.T) {
	tests := map[string]struct {
		values []int
		q      float64
		want   int
	}{
		"nothing is zero":                  {nil, .5, 0},
		"median of an odd number":          {[]int{3, 1, 2}, .5, 2},
		"lower median of an even number":   {[]int{4, 3, 2, 1}, .5, 2},
		"all of it is the greatest":        {[]int{2, 9, 4}, 1, 9},
		"nearest rank, never interpolated": {[]int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, .99, 10},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := quantile(test.values, test.q); got != test.want {
				t.Errorf("quantile(%v, %v) = %d, want %d", test.values, test.q, got, test.want)
			}
		})
	}
}
