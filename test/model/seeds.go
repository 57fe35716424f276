package model

import (
	"fmt"
	"math/rand/v2"
	"os"
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

// Each runs a test with one seed after the other, and prints them. It stops at the first
// that fails, and says how to repeat it.
func Each(t *testing.T, seeds []uint64, run func(t *testing.T, seed uint64)) {
	t.Helper()
	done := 0
	defer func() { // a bubble that fails ends this goroutine
		if t.Failed() {
			t.Logf("seed %d failed, after %d others; %s", seeds[done], done, Repeat(t, seeds[done]))
		}
	}()
	for _, seed := range seeds {
		if run(t, seed); t.Failed() {
			return
		}
		done++
	}
	t.Logf("%d seeds: %d", len(seeds), seeds)
}

// Repeat says how to run a test with a seed again.
func Repeat(t *testing.T, seed uint64) string {
	t.Helper()
	name, _, _ := strings.Cut(t.Name(), "/")
	return fmt.Sprintf("to repeat it: %s=%d go test -count=1 -run '^%s$' in this package's directory", Seed, seed, name)
}

// Seeds chooses some seeds that are the same in every run, and some fresh ones, or those
// that the environment asks for.
func Seeds(t *testing.T, fixed, fresh int) []uint64 {
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
		seeds = append(seeds, uint64(i))
	}
	for range fresh {
		seeds = append(seeds, rand.Uint64()) //nolint:gosec // it is printed
	}
	return seeds
}
