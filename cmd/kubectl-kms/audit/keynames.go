package audit

import (
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// notInBytes stands for the key of KMS v1.
const notInBytes = "not in the bytes"

// keyNames are what the table calls keys: key_id → a name that is no wider than there
// is room.
type keyNames struct {
	short map[string]string
	order []string // key_ids, as the tables show them
}

// of returns what stands in the column KEY.
func (n keyNames) of(u Under) string {
	switch {
	case u.Format == string(stored.KMSv1):
		return notInBytes
	case u.KeyID == "":
		return ""
	}
	return n.short[u.KeyID]
}

// names finds the longest names of keys, no two of them alike, by which the tables fit
// best.
func (r *Report) names() keyNames {
	var order []string
	for _, p := range r.Places {
		for _, row := range p.Rows {
			if row.KeyID != "" && !slices.Contains(order, row.KeyID) {
				order = append(order, row.KeyID)
			}
		}
	}
	var best keyNames
	fewest := -1
	for _, shorten := range []func(int, string) string{whole, dotted, tail, initial, numbered} {
		n := keyNames{map[string]string{}, order}
		taken := map[string]bool{}
		for i, id := range order {
			n.short[id] = shorten(i, id)
			taken[n.short[id]] = true
		}
		if excess := n.excess(r); len(taken) == len(order) && (fewest < 0 || excess < fewest) {
			best, fewest = n, excess
		}
	}
	return best
}

// excess is how badly the tables fit: a line that the terminal breaks is worse than any
// number that the table does.
func (n keyNames) excess(r *Report) int {
	sum := 0
	for _, p := range r.Places {
		lines, wide := tableOf(p, n).Excess()
		sum += lines + wide*maxRows
	}
	return sum
}

// print lists the keys whose names were made shorter.
func (n keyNames) print(p *printer) {
	titled := false
	for _, id := range n.order {
		short := n.short[id]
		if short == id {
			continue
		}
		if !titled {
			p.Print("keys in full:\n")
			titled = true
		}
		if strings.HasPrefix(short, "#") {
			id = short + "  " + id
		}
		p.Print("  " + id + "\n")
	}
}

func whole(_ int, id string) string { return id }

// dotted leaves out what mostly is the same of all keys.
func dotted(_ int, id string) string {
	key, parameters := parts(id)
	if head, name, ok := strings.Cut(key, ":key/"); ok && strings.HasPrefix(head, "arn:") {
		return "arn:..:key/" + clip(name, 8) + parameters
	}
	return tail(0, id)
}

func tail(_ int, id string) string {
	key, parameters := parts(id)
	if head, name, ok := strings.Cut(key, ":key/"); ok && strings.HasPrefix(head, "arn:") {
		return "key/" + clip(name, 8) + parameters
	}
	const most = 26
	if len(id) > most {
		return ".." + id[len(id)-most+2:]
	}
	return id
}

// initial is no more than the beginnings of key and material.
func initial(_ int, id string) string {
	key, _ := parts(id)
	head, name, ok := strings.Cut(key, ":key/")
	if !ok || !strings.HasPrefix(head, "arn:") {
		return tail(0, id)
	}
	_, material, ok := strings.Cut(id, "?material=")
	if !ok {
		return clip(name, 8)
	}
	return name[:min(8, len(name))] + "?" + material[:min(4, len(material))]
}

func numbered(i int, _ string) string { return fmt.Sprintf("#%d", i+1) }

// parts are a key_id's key, and its parameters made short.
func parts(id string) (key, parameters string) {
	key, rest, ok := strings.Cut(id, "?")
	if !ok {
		return key, ""
	}
	var short []string
	for one := range strings.SplitSeq(rest, "&") {
		name, value, _ := strings.Cut(one, "=")
		short = append(short, name+"="+clip(value, 4))
	}
	return key, "?" + strings.Join(short, "&")
}

func clip(text string, most int) string {
	if len(text) > most+2 {
		return text[:most] + ".."
	}
	return text
}
