package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
)

// The Region and the caller that every process here uses.
const (
	region          = "us-west-2"
	accessKeyID     = "AKIAIOSFODNN7EXAMPLE"
	secretAccessKey = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

// Emulator is the role of AWS KMS.
type Emulator struct {
	emulator *kmsemulator.Emulator
	url      string

	mu     sync.Mutex
	faults []func() // what removes them
}

func newEmulator() (*Emulator, error) {
	e, err := kmsemulator.New(kmsemulator.Options{
		Credentials: []kmsemulator.Credential{{AccessKeyID: accessKeyID, SecretAccessKey: secretAccessKey}},
	})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go e.Server().Serve(l) //nolint:errcheck // ends with the process
	return &Emulator{emulator: e, url: "http://" + l.Addr().String()}, nil
}

// A Key is a key and where it is.
type Key struct{ URL, ARN string }

// CreateKey makes a key.
func (e *Emulator) CreateKey(_ None, k *Key) (err error) {
	k.URL = e.url
	k.ARN, err = e.emulator.CreateKey(region, kmsemulator.KeyOptions{})
	return err
}

// Inject adds a fault.
func (e *Emulator) Inject(f kmsemulator.Fault, _ *None) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults = append(e.faults, e.emulator.Inject(f))
	return nil
}

// Mend removes the faults that were injected last, as many as n.
func (e *Emulator) Mend(n int, _ *None) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n > len(e.faults) {
		return errors.New("there are fewer faults")
	}
	for range n {
		e.faults[len(e.faults)-1]()
		e.faults = e.faults[:len(e.faults)-1]
	}
	return nil
}

// Disable disables a key.
func (e *Emulator) Disable(arn string, _ *None) error { return e.emulator.DisableKey(arn) }

// Enable enables a key.
func (e *Emulator) Enable(arn string, _ *None) error { return e.emulator.EnableKey(arn) }

// Deny denies everything on a key.
func (e *Emulator) Deny(arn string, _ *None) error { return e.permit(arn, e.emulator.Deny) }

// Allow takes Deny back.
func (e *Emulator) Allow(arn string, _ *None) error { return e.permit(arn, e.emulator.Allow) }

func (e *Emulator) permit(arn string, say func(key, operation string)) error {
	if !e.emulator.HasKey(arn) {
		return errors.New("there is no such key")
	}
	say(arn, "")
	return nil
}

// Calls tells how many calls of a KMS operation have arrived, "*" of all.
func (e *Emulator) Calls(operation string, n *int) error {
	if *n = e.emulator.Calls(operation); *n == 0 {
		return fmt.Errorf("no call of %s has arrived", operation)
	}
	return nil
}

// A kms is the emulator as the parent sees it.
type kms struct {
	*child

	url string
	key string // the first
}

// startKMS starts an emulator with one key.
func startKMS(ctx context.Context) (*kms, error) {
	c, err := start(ctx, "emulator")
	if err != nil {
		return nil, err
	}
	k := &kms{child: c}
	if k.key, err = k.createKey(); err != nil {
		k.end()
		return nil, err
	}
	return k, nil
}

func (k *kms) createKey() (arn string, err error) {
	var made Key
	err = k.call("CreateKey", None{}, &made)
	k.url = made.URL
	return made.ARN, err
}

func (k *kms) inject(f kmsemulator.Fault) error { return k.call("Inject", f, &None{}) }
func (k *kms) mend() error                      { return k.call("Mend", 1, &None{}) }

// slow makes every answer come later.
func (k *kms) slow(by time.Duration) error {
	return k.inject(kmsemulator.Fault{Kind: kmsemulator.Latency, Delay: by})
}

func (k *kms) calls() (n int, err error) {
	return n, k.call("Calls", "*", &n)
}
