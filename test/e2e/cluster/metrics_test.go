package cluster

import "testing"

func TestParseMetrics(t *testing.T) {
	t.Parallel()
	page := ParseMetrics(`# HELP hits_total How often.
# TYPE hits_total counter
hits_total{key="sha256:ab",type="to_storage"} 3
hits_total{key="sha256:ab",type="from_storage"} 4
hits_total{key="sha256:cd",type="to_storage"} 1.5e+09
up 1
hits_total_more{key="sha256:ab"} 100
broken{ 1
`)
	for _, c := range []struct {
		name   string
		labels map[string]string
		want   float64
		found  bool
	}{
		{"hits_total", map[string]string{"key": "sha256:ab", "type": "to_storage"}, 3, true},
		{"hits_total", map[string]string{"key": "sha256:ab"}, 7, true},
		{"hits_total", map[string]string{"key": "sha256:cd"}, 1.5e9, true},
		{"hits_total", map[string]string{"key": "sha256:ef"}, 0, false},
		{"hits_total", map[string]string{"colour": ""}, 0, false},
		{"up", nil, 1, true},
		{"down", nil, 0, false},
	} {
		if got, found := page.Value(c.name, c.labels); got != c.want || found != c.found {
			t.Errorf("%s%v is %v, %t; want %v, %t", c.name, c.labels, got, found, c.want, c.found)
		}
	}
	if got := len(page); got != 5 {
		t.Errorf("%d samples, want 5: %v", got, page)
	}
}

// TestKeyIDHash: the form of k8s.io/apiserver's envelope metrics.
func TestKeyIDHash(t *testing.T) {
	t.Parallel()
	const want = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if got := KeyIDHash("abc"); got != want {
		t.Errorf("KeyIDHash is %s, want %s", got, want)
	}
}
