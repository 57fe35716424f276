package main

import "testing"

func TestProvidersThatCostMoreThanTheirShareFail(t *testing.T) {
	crowdOf := func(size, idleMemory, callsEach int) *crowd {
		return &crowd{
			plugin: &plugin{sockets: make([]string, size)},
			before: figures{calls: 7}, idle: figures{resident: idleMemory, calls: 7 + size*callsEach},
		}
	}
	for name, c := range map[string]struct {
		many        *crowd
		calls, idle bool // pass
	}{
		"at the limit":        {crowdOf(20, 39e6, 4), true, true},
		"a bit over":          {crowdOf(20, 39e6+20, 4), true, false},
		"each calls more":     {crowdOf(20, 39e6, 5), false, true},
		"some never call KMS": {crowdOf(20, 39e6, 3), false, true},
	} {
		rows := compareCrowds(crowdOf(1, 20e6, 4), c.many)
		if rows[0].pass != c.calls || rows[2].pass != c.idle {
			t.Errorf("%s: calls %v, memory %v; want %v and %v; %+v", name, rows[0].pass, rows[2].pass, c.calls, c.idle, rows)
		}
	}
	if row := compareCrowds(crowdOf(1, 20e6, 0), crowdOf(20, 20e6, 0))[0]; row.pass {
		t.Errorf("without any call: %+v, want it to fail", row)
	}
}
