// Package kmsemulator is an AWS KMS in process, for development, demos and
// tests. It speaks KMS's own protocol (awsjson 1.1 over HTTP, signed with
// SigV4), so that every AWS client works with it unchanged, and it is meant to
// be as strict as KMS: it never accepts what KMS refuses.
//
// [New] makes an [Emulator] and [Emulator.Server] an HTTP server for it; the
// Region in a request's credential scope chooses the emulated Region, so one
// address serves them all. [Emulator.STS] and [Emulator.IMDS] answer beside it
// for clients that assume roles or ask an instance for credentials. Tests
// usually begin with the package kmstest instead.
//
// Keys are symmetric and real: a CiphertextBlob is AES-256-GCM under the key's
// material with the encryption context as authenticated data. Asymmetric and
// HMAC keys exist by name only, to be refused where KMS refuses them. With
// [Options.Dir] everything survives the process; without, it dies with it.
//
// The emulator grants whatever neither [Emulator.Deny] nor the policy forbids that
// a key was given by CreateKey, ReplicateKey or PutKeyPolicy: every caller is one
// whom its account allows everything, until [Emulator.Enforce] says what users and
// roles are allowed.
//
// The serving path must never import this package: only the dev command and
// tests do.
//
// All methods of an Emulator are safe for concurrent use. It starts no
// goroutine; whatever time changes (a rotation that falls due, a deletion) is
// found out by the next call.
package kmsemulator

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/iam"
)

// Options say what an [Emulator] is like. The zero value is an empty KMS of the
// account 111122223333 that accepts every caller who signs properly.
type Options struct {
	// Account is the 12-digit account that owns every key; "" is 111122223333.
	Account string
	// Partition is the first word of every ARN after "arn"; "" is "aws".
	Partition string
	// Credentials are the callers that are known. With none, any access key and
	// signature is accepted, and form, date and scope are still checked.
	Credentials []Credential
	// Dir, if not empty, is a directory in which the state survives the process.
	// Every change is on disk before it is acknowledged, but for the last use of a
	// key, which may take a minute, and [Emulator.Close] saves. One Emulator at a
	// time can use it.
	Dir string
	// Clock tells the time; nil is time.Now.
	Clock func() time.Time
	// PropagationDelay is the longest time after which a connection sees a
	// change of a key's state, of an alias or of the current key material. Each
	// connection has its own delay between zero and this. 0 is at once.
	PropagationDelay time.Duration
	// ReplicaDelay is how long a new replica stays in the state Creating. 0
	// means that only the answer to ReplicateKey shows that state.
	ReplicaDelay time.Duration
	// BlindDryRun makes a dry run with IGNORE_CIPHERTEXT check permissions alone,
	// and say yes for a key that is disabled or pending deletion. AWS documents that
	// it "performs only authorization validation", and not whether that includes the
	// key's state: a client has to work with either.
	BlindDryRun bool
	// Seed makes delays and the rates of faults repeatable. Keys and nonces are
	// always random.
	Seed uint64
	// Roles are the IAM roles that STS can assume. With none, every role of the
	// account can be assumed, without an external id or with any.
	Roles []Role
	// Instance is what the instance metadata service tells.
	Instance Instance
}

// A Credential is one caller that the emulator knows.
type Credential struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string    // for temporary credentials; must then be sent along
	Expires         time.Time // zero: never
	Principal       string    // ARN of a user, or of a role's session; "": a user of the account

	role string // ARN of the role, for a session that AssumeRole began
}

// An Emulator is an AWS KMS. Make one with [New].
type Emulator struct {
	account   string
	partition string
	clock     func() time.Time
	options   Options

	operations map[string]operation
	calls      map[string]*atomic.Int64 // operation → calls that arrived
	allCalls   atomic.Int64

	store    *store
	signers  *signers
	faults   *faults
	enforced atomic.Pointer[enforced] // nil: every caller may do everything
	policy   *policy
	imds     *imdsTokens

	everything *iam.Policy // of a caller that needs no permission
	defaults   *iam.Policy // of a key that was given none

	random struct {
		sync.Mutex
		*rand.Rand
	}
}

// New returns an emulator, with the state found in o.Dir if that is set. It
// fails on options that make no sense, and on a directory that cannot be read
// or that another emulator uses.
func New(o Options) (*Emulator, error) {
	if o.Account == "" {
		o.Account = "111122223333"
	}
	if !regexp.MustCompile(`^\d{12}$`).MatchString(o.Account) {
		return nil, fmt.Errorf("kmsemulator: account %q is not 12 digits", o.Account)
	}
	if o.Partition == "" {
		o.Partition = "aws"
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.PropagationDelay < 0 || o.ReplicaDelay < 0 {
		return nil, fmt.Errorf("kmsemulator: negative delay")
	}
	e := &Emulator{account: o.Account, partition: o.Partition, clock: o.Clock, options: o}
	e.random.Rand = rand.New(rand.NewPCG(o.Seed, 0x6b6d73)) //nolint:gosec // repeatable delays, no secrets
	e.operations = operations()
	e.calls = make(map[string]*atomic.Int64)
	for name := range e.operations {
		e.calls[name] = new(atomic.Int64)
	}
	for _, name := range []string{"AssumeRole", "GetCallerIdentity"} {
		e.calls[name] = new(atomic.Int64)
	}
	signers, err := newSigners(o.Credentials)
	if err != nil {
		return nil, err
	}
	e.signers = signers
	e.faults = &faults{chance: e.chance}
	e.policy = &policy{}
	e.imds = &imdsTokens{}
	e.everything, e.defaults = everything(), own(iam.Key, e.defaultPolicy())
	if e.store, err = openStore(o.Dir, o.PropagationDelay, o.Clock()); err != nil {
		return nil, err
	}
	return e, nil
}

// Close saves what is not on disk yet and gives the directory free for another
// emulator. Servers are the
// caller's to close, before this.
func (e *Emulator) Close() error { return e.store.close() }

// Server returns an HTTP server that answers as KMS does. The caller serves a
// listener with it (ServeTLS as well as Serve) and closes it. It speaks HTTP/1.1
// only, as KMS does, and gives each connection its propagation delay; a server
// set up otherwise around the same handler shows every change at once.
func (e *Emulator) Server() *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           http.HandlerFunc(e.serveKMS),
		ConnContext:       e.connContext,
		Protocols:         &protocols,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          discardLog(),
	}
}

// Calls returns how many requests for an operation have arrived, refused and
// failed ones included; "*" counts those for every KMS operation. Operations of
// STS are counted by name alone.
func (e *Emulator) Calls(name string) int {
	if name == "*" {
		return int(e.allCalls.Load())
	}
	if n := e.calls[name]; n != nil {
		return int(n.Load())
	}
	return 0
}

// AddCredential makes a caller known from now on, in the place of one with the
// same access key. An emulator that accepts anyone still does so for others.
func (e *Emulator) AddCredential(c Credential) { e.signers.add(c) }

// Operations returns the names of KMS's operations that are answered, sorted.
func (e *Emulator) Operations() []string { return slices.Sorted(maps.Keys(e.operations)) }

// Settle makes every change so far visible on every connection at once.
func (e *Emulator) Settle() { e.store.settle() }

// chance reports whether something of this rate happens now; 0 means always.
func (e *Emulator) chance(rate float64) bool {
	if rate <= 0 || rate >= 1 {
		return true
	}
	e.random.Lock()
	defer e.random.Unlock()
	return e.random.Float64() < rate
}

func (e *Emulator) arn(service, region, resource string) string {
	return "arn:" + e.partition + ":" + service + ":" + region + ":" + e.account + ":" + resource
}

// drain reads what is left of a body so that the connection can be kept.
func drain(r *http.Request) {
	_, _ = io.CopyN(io.Discard, r.Body, maxBody)
}
