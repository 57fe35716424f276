// Package typo tells how far what somebody wrote is from a name that there is.
package typo

// longest is what is compared: nobody mistypes a longer name, and the time grows with
// the product of both lengths.
const longest = 256

// Distance is how many bytes have to be added, removed or changed to make b of a
// (Levenshtein's). Where a is longer than 256 bytes it is at least that.
func Distance(a, b string) int {
	if len(a) > longest {
		return max(len(a), len(b))
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
