package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v2 "k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// An nthStory is a reload in which something fails.
type nthStory struct {
	name    string
	alias   bool // the new first key is named by one
	amid    func(k *nthCase)
	restart bool // the process ends amid it, and another begins with the new file
}

func nthStories() []nthStory {
	rotate := func(k *nthCase) { k.must(errors.Join(k.kms.RotateKey(k.a), k.kms.RotateKey(k.b))) }
	move := func(k *nthCase) { k.must(k.kms.UpdateAlias(kmstest.Region, nthAlias, k.c)) }
	return []nthStory{
		{"reload", false, nil, false},
		{"reload and restart", false, nil, true},
		{"reload amid a rotation", false, rotate, false},
		{"reload amid a rotation, and restart", false, rotate, true},
		{"reload amid an alias move", true, move, false},
		{"reload amid an alias move, and restart", true, move, true},
	}
}

const nthAlias = "alias/nth"

// An nthCase is one story with one fault: two files, of which the second has a new
// first key, a new socket, one socket less and another mode.
type nthCase struct {
	*filed

	story         nthStory
	kms           *kmstest.Server
	a, b, c       string // keys: before; after; of the alias once it has moved
	first, second string // files
	shared, same  string // sockets of both, of a provider that changes and of one that does not
	gone, come    string // sockets of one
	ops           *failingFiles

	mu     sync.Mutex
	sealed []*v2.EncryptResponse
	told   [][]string // key_ids, by process
	errs   []error    // of calls on the old generation that nothing excuses
}

func newNthCase(t *testing.T, story nthStory, timeout time.Duration, ops *failingFiles) *nthCase {
	t.Helper()
	kms := kmstest.Start(t, kmsemulator.Options{Credentials: []kmsemulator.Credential{kmstest.Credential()}, PropagationDelay: 300 * time.Millisecond})
	k := &nthCase{story: story, kms: kms, a: createKey(t, kms), b: createKey(t, kms), c: createKey(t, kms), ops: ops, told: [][]string{nil}}
	dir := testkit.Directory(t)
	k.shared, k.same, k.gone, k.come = dir+"/s", dir+"/same", dir+"/gone", dir+"/new/come"
	name := k.b
	if story.alias {
		name = nthAlias
		if err := kms.CreateAlias(kmstest.Region, nthAlias, k.b); err != nil {
			t.Fatal(err)
		}
	}
	kms.Settle()
	a := keyText(kms, k.a)
	same := providerText{name: "same", listen: k.same, keys: []string{a}}
	globals := fmt.Sprintf("kmsTimeout: %s\n", timeout)
	k.first = fileText(globals, providerText{name: "aws", listen: k.shared, keys: []string{a}}, same, providerText{name: "gone", listen: k.gone, keys: []string{a}})
	k.second = fileText(globals+"socket: {mode: \"0660\"}\n", providerText{name: "aws", listen: k.shared, keys: []string{keyText(kms, name), a}}, same,
		providerText{name: "come", listen: k.come, keys: []string{a}})
	k.filed = runFiled(t, filing{dir: dir, files: ops.files()}, k.first)
	k.ready()
	return k
}

// A blow is a fault at work. struck says that it is time to go on with the story
// although the file is not loaded.
type blow struct {
	remove func()
	struck func() bool
	litter bool // what an attempt has made and changed cannot be taken back
	surely bool // no check of the new key can pass
}

// tell tells the story. inject lets the fault begin.
func (k *nthCase) tell(inject func() blow) {
	k.t.Helper()
	stop := k.watch()
	fault := inject()
	if k.story.amid != nil {
		k.story.amid(k)
	}
	k.write(k.second)
	testkit.Until(k.t, "the file is loaded, or the fault has struck", func() bool { return k.serves(k.second) || fault.struck() })
	if k.story.restart {
		k.restart()
	}
	goesOn := time.Now().Add(300 * time.Millisecond)
	testkit.Until(k.t, "the file is loaded, or what was served goes on", func() bool { return k.serves(k.second) || time.Now().After(goesOn) })
	testkit.Until(k.t, "sockets are those of what is served", func() bool { // an attempt may be at work just now
		return k.serves(k.second) || exists(k.gone) && (fault.litter || !exists(k.come) && k.modes(0o600))
	})
	if fault.surely && !k.story.restart && k.serves(k.second) {
		k.t.Error("a key that cannot encrypt and decrypt writes")
	}
	fault.remove()
	k.loaded(k.second)
	k.ready()
	stop()
	k.kms.Settle()
	k.judge("the same process")
	k.again()
	k.judge("a process that starts afresh")
}

// modes reports whether the sockets of both files have a mode.
func (k *nthCase) modes(want fs.FileMode) bool {
	return testkit.Permissions(k.t, k.shared) == want && testkit.Permissions(k.t, k.same) == want
}

func (k *nthCase) serves(text string) bool { return k.current.Load().cfg.Hash == hashOf(text) }

// watch is an API server that calls again and again. While the old generation is
// served, no call may fail.
func (k *nthCase) watch() (stop func()) {
	c := newCaller(k.t, k.shared)
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		for ctx.Err() == nil {
			process, old := k.process(), k.daemon()
			excused := old.current.Load().cfg.Hash != hashOf(k.first)
			limited, cancel := context.WithTimeout(ctx, testkit.Patience)
			st, err := c.kms.Status(limited, &v2.StatusRequest{})
			if err == nil {
				k.note(process, st.KeyId)
				var sealed *v2.EncryptResponse
				if sealed, err = c.kms.Encrypt(limited, &v2.EncryptRequest{Plaintext: plaintext(), Uid: "u"}); err == nil {
					k.note(process, sealed.KeyId)
					k.keep(sealed)
					err = c.open(limited, sealed)
				}
			}
			cancel()
			excused = excused || ctx.Err() != nil || process != k.process() || old.current.Load().cfg.Hash != hashOf(k.first)
			if err != nil && !excused && !k.ofNewKeys(err) {
				k.mu.Lock()
				k.errs = append(k.errs, err)
				k.mu.Unlock()
			}
			time.Sleep(2 * time.Millisecond) // leaves the processor to the reload
		}
	})
	return func() { cancel(); watching.Wait() }
}

// ofNewKeys reports whether an error is of a key that the old generation does not
// have: sockets change hands just before the new generation, or the next process,
// counts as current.
func (k *nthCase) ofNewKeys(err error) bool {
	return slices.ContainsFunc([]string{k.b, k.c, nthAlias}, func(key string) bool { return strings.Contains(err.Error(), "with "+key) })
}

func (k *nthCase) process() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.told)
}

func (k *nthCase) daemon() *Daemon {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.filed.Daemon
}

// note enters a key_id that a process answered, unless that has ended meanwhile.
func (k *nthCase) note(process int, keyID string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	told := &k.told[process-1]
	if process == len(k.told) && (len(*told) == 0 || (*told)[len(*told)-1] != keyID) {
		*told = append(*told, keyID)
	}
}

func (k *nthCase) keep(sealed *v2.EncryptResponse) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sealed = append(k.sealed, sealed)
}

// restart ends the process and begins another, as whoever supervises it does:
// again where that cannot have its sockets.
func (k *nthCase) restart() {
	k.t.Helper()
	for {
		k.again()
		select {
		case <-k.Serving():
			return
		case err := <-k.Failed():
			k.t.Logf("the process ends: %v", err)
			k.ops.tired() // the supervisor waits, and something mends the machine
		case <-time.After(testkit.Patience):
			k.t.Fatalf("neither serving nor failed:\n%s", k.log)
		}
	}
}

// again ends the process and begins another with the file as it is.
func (k *nthCase) again() {
	k.t.Helper()
	k.shutdown()
	k.mu.Lock()
	k.told = append(k.told, nil)
	k.mu.Unlock()
	next := runFiled(k.t, filing{dir: k.dir, file: k.file, files: k.ops.files(), log: k.log}, "")
	k.mu.Lock()
	k.filed = next
	k.mu.Unlock()
}

// judge reads all that was ever acknowledged, and looks at what was told.
func (k *nthCase) judge(by string) {
	k.t.Helper()
	k.ready()
	c := newCaller(k.t, k.shared)
	for _, sealed := range append(k.sealed, c.seals()) {
		if err := c.open(context.Background(), sealed); err != nil {
			k.t.Fatalf("acknowledged under %s, %s cannot read it: %v\n%s", sealed.KeyId, by, err, k.log)
		}
	}
	for i, told := range k.told {
		for j, keyID := range told {
			key := string(keyref.ParseState(keyID).Key)
			if !slices.Contains([]string{k.a, k.b, k.c}, key) || slices.Contains(told[:j], keyID) {
				k.t.Errorf("process %d told the key_ids %v: one is of no key, or had been left", i+1, told)
			}
			if i > 0 && key == k.a {
				k.t.Errorf("process %d, which began with the new file, told the key_id %s", i+1, keyID)
			}
		}
	}
	for _, err := range k.errs {
		k.t.Errorf("a call on the old generation failed: %v", err)
	}
	if !exists(k.come) || exists(lockFile(k.come)) || !k.modes(0o660) {
		k.t.Errorf("not all of the new file's sockets are there, with their mode")
	}
	if exists(k.gone) && !k.log.Has("socket file cannot be removed") {
		k.t.Error("the socket that is gone is still there")
	}
}

// An nthFault is a way in which KMS fails.
type nthFault struct {
	name    string
	fault   kmsemulator.Fault
	stories []nthStory
	calls   int           // that fail in turn; the first two are of the check
	timeout time.Duration // of a call
}

func nthFaults() []nthFault {
	denied := kmsemulator.Fault{Kind: kmsemulator.Error, Code: "AccessDeniedException", Message: "User: arn:aws:iam::111122223333:user/tester is not authorized"}
	return []nthFault{
		{"hang", kmsemulator.Fault{Kind: kmsemulator.Hang}, nthStories()[:2], 3, 3 * time.Second},
		{"reset", kmsemulator.Fault{Kind: kmsemulator.Reset}, nthStories(), 5, testkit.Patience},
		{"denied", denied, nthStories(), 5, testkit.Patience},
	}
}

// nthEvery reads from the environment how many of the cases run: one in so many, a
// different choice in each run.
func nthEvery(t *testing.T) int {
	t.Helper()
	every := 3
	if text := os.Getenv("DAEMON_NTH_EVERY"); text != "" {
		var err error
		if every, err = strconv.Atoi(text); err != nil || every < 1 {
			t.Fatalf("DAEMON_NTH_EVERY is %q, want a number from 1", text)
		}
	}
	return every
}

// Of the first calls of KMS that concern the new key, each in turn fails.
func TestNthCallOfKMSFailsAmidAReload(t *testing.T) {
	t.Parallel()
	every := nthEvery(t)
	chosen := rand.N(every) //nolint:gosec // a choice of cases is no secret
	for _, f := range nthFaults() {
		for _, story := range f.stories {
			for n := 1; n <= f.calls; n++ {
				for _, forGood := range []bool{false, true} {
					if chosen++; chosen%every != 0 {
						continue
					}
					t.Run(strings.Join([]string{story.name, f.name, fmt.Sprint(n), mode(forGood)}, "/"), func(t *testing.T) {
						t.Parallel()
						k := newNthCase(t, story, f.timeout, &failingFiles{})
						k.tell(func() blow { return k.injectKMS(f.fault, n, forGood) })
					})
				}
			}
		}
	}
}

func mode(forGood bool) string {
	if forGood {
		return "for good"
	}
	return "once"
}

// injectKMS makes the n-th call fail that concerns a key which the old file does
// not have.
func (k *nthCase) injectKMS(fault kmsemulator.Fault, n int, forGood bool) blow {
	fault.Skip = n - 1
	if !forGood {
		fault.Count = 1
	}
	var ends []func()
	for _, key := range []string{k.b, k.c} {
		fault.Key = key
		ends = append(ends, k.kms.Inject(fault))
	}
	begun := time.Now()
	check := 2         // calls
	if k.story.alias { // which of two keys the second concerns is a matter of chance
		check = 1
	}
	return blow{
		surely: forGood && n <= check,
		remove: func() {
			for _, end := range ends {
				end()
			}
		},
		struck: func() bool {
			if k.story.restart { // a different moment each time
				return time.Since(begun) > time.Duration(n)*15*time.Millisecond
			}
			return k.reloader.state.Load().err != nil
		},
	}
}
