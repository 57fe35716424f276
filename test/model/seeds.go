package model

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The environment variables that choose seeds.
const (
	// Rounds is how many fresh seeds are tried.
	Rounds = "KEYRING_CHANCE_ROUNDS"
	// Seed are the seeds that are tried, with commas between them, and no others.
	Seed = "MODEL_SEED"
)

// Seeds runs a test with some seeds that are the same in every run, and with some fresh
// ones, which it prints. It stops at the first that fails, and says how to repeat it.
func Seeds(t *testing.T, fixed, fresh int, run func(t *testing.T, seed uint64)) {
	t.Helper()
	seeds := seedsOf(t, fixed, fresh)
	for i, seed := range seeds {
		run(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d failed, after %d others; to repeat it: %s=%d go test -count=1 -run '^%s$' and this package", seed, i, Seed, seed, t.Name())
		}
	}
	t.Logf("%d seeds: %d", len(seeds), seeds)
}

func seedsOf(t *testing.T, fixed, fresh int) []uint64 {
	t.Helper()
	if text := os.Getenv(Seed); text != "" {
		var seeds []uint64
		for one := range strings.SplitSeq(text, ",") {
			seed, err := strconv.ParseUint(strings.TrimSpace(one), 10, 64)
			if err != nil {
				t.Fatalf("%s: %v", Seed, err)
			}
			seeds = append(seeds, seed)
		}
		return seeds
	}
	if text := os.Getenv(Rounds); text != "" {
		var err error
		if fresh, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s: %v", Rounds, err)
		}
	}
	seeds := make([]uint64, 0, fixed+fresh)
	for i := range fixed {
		seeds = append(seeds, uint64(i)) //nolint:gosec // it is small
	}
	for range fresh {
		seeds = append(seeds, rand.Uint64()) //nolint:gosec // it is printed
	}
	return slices.Clip(seeds)
}
