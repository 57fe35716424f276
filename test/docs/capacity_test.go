package docs_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestArithmeticOfCapacityIsRight recomputes what docs/capacity.md says after
// each "=", and its examples from the columns beside.
func TestArithmeticOfCapacityIsRight(t *testing.T) {
	page := read(t, "../../docs/capacity.md")
	wrong, found := wrongSums(page)
	for _, sum := range wrong {
		t.Errorf("docs/capacity.md: %s", sum)
	}
	if found < 15 {
		t.Errorf("found %d sums: the test is wrong", found)
	}
	row := regexp.MustCompile(`(?m)^\| [a-z0-9 ]+ \| ([0-9,]+) \| ([0-9,]+) \| ([0-9,]+) \| (.*) = [0-9,]+ \| (.*) = [0-9,]+ \|$`)
	rows := row.FindAllStringSubmatch(page, -1)
	for _, cells := range rows {
		servers, objects, seeds := cells[1], cells[2], cells[3]
		want := []string{fmt.Sprintf("%s × (1 + 10 × %s)", servers, seeds), servers + " × " + objects}
		if got := cells[4:]; !slices.Equal(got, want) {
			t.Errorf("docs/capacity.md computes %q beside %s servers, %s objects and %s seeds, want %q", got, servers, objects, seeds, want)
		}
	}
	if len(rows) < 4 {
		t.Errorf("found %d examples: the test is wrong", len(rows))
	}
}

func TestWrongSumIsFound(t *testing.T) {
	got, found := wrongSums("It is 2 × (1 +\n1,000) = 2,002, and 10 ÷ 3 = 3.33. But 4 × 60 = 241,\nand 1 ÷ 3 × $1 = $0.30.")
	if want := []string{"4 × 60 = 241: it is 240", "1 ÷ 3 × $1 = $0.30: it is 0.3333333333333333"}; !slices.Equal(got, want) || found != 4 {
		t.Errorf("got %q of %d, want %q of 4", got, found, want)
	}
}

// wrongSums are the sums of a text whose result is another, to the digits that
// the text gives.
func wrongSums(text string) (wrong []string, found int) {
	text = strings.Join(strings.Fields(text), " ")
	for _, sum := range regexp.MustCompile(`([(0-9][0-9,.$()]*(?: [×÷+] [(0-9$][0-9,.$()]*)+) = \$?([0-9,]*[0-9](?:\.[0-9]+)?)`).FindAllStringSubmatch(text, -1) {
		found++
		_, decimals, _ := strings.Cut(sum[2], ".")
		exact, err := compute(sum[1])
		scale := math.Pow10(len(decimals))
		result, _ := strconv.ParseFloat(strings.ReplaceAll(sum[2], ",", ""), 64)
		switch {
		case err != nil:
			wrong = append(wrong, fmt.Sprintf("%s: %v", sum[0], err))
		case math.Round(exact*scale) != math.Round(result*scale):
			wrong = append(wrong, fmt.Sprintf("%s: it is %v", sum[0], exact))
		}
	}
	return wrong, found
}

// compute is the value of a sum, which Go's own parser reads.
func compute(sum string) (float64, error) {
	expr, err := parser.ParseExpr(strings.NewReplacer("×", "*", "÷", "/", ",", "", "$", "").Replace(sum))
	if err != nil {
		return 0, err
	}
	return value(expr)
}

func value(expr ast.Expr) (float64, error) {
	switch e := expr.(type) {
	case *ast.ParenExpr:
		return value(e.X)
	case *ast.BasicLit:
		return strconv.ParseFloat(e.Value, 64)
	case *ast.BinaryExpr:
		left, err := value(e.X)
		if err != nil {
			return 0, err
		}
		right, err := value(e.Y)
		return map[token.Token]float64{token.ADD: left + right, token.MUL: left * right, token.QUO: left / right}[e.Op], err
	}
	return 0, fmt.Errorf("cannot compute %T", expr)
}
