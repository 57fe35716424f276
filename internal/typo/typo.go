// Package typo tells how far what somebody wrote is from a name that there is.
package typo

// longest is what is compared: nobody mistypes a longer name, and the time grows with
// the product of both lengths.
const longest = 256

// Distance is how many bytes have to be added, removed, changed or swapped with their
// neighbour to make b of a (Levenshtein's distance, and a swap counts once). Where a is
// longer than 256 bytes it is at least that.
func Distance(a, b string) int {
	if len(a) > longest {
		return max(len(a), len(b))
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, before
		row[0] = i + 1
		for j := range len(b) {
			cost := last[j]
			if a[i] != b[j] {
				cost++
			}
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				cost = min(cost, before[j-1]+1)
			}
			row[j+1] = min(cost, last[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
