package provider_test

import (
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

const (
	costKeys    = 5
	costObjects = 1000
)

// costs are keys in an emulated KMS, each with its share of v1 objects, and a
// count of what reading them costs.
type costs struct {
	keys     []kmskey.Config
	objects  [costKeys][]keyring.Stored
	decrypts atomic.Int64
}

func newCosts(t *testing.T) *costs {
	t.Helper()
	kms := kmstest.Start(t)
	kms.SetEnv(t)
	pool := awskms.NewConnections()
	t.Cleanup(pool.Close)
	c := &costs{}
	for i := range c.objects {
		arn, err := kms.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		client := awskms.New(awskms.Options{
			Connections: pool, Timeout: time.Minute, Region: kmstest.Region, Endpoint: kms.URL,
			Observe: func(op string, _ cause.Class, _ time.Duration) {
				if op == "Decrypt" {
					c.decrypts.Add(1)
				}
			},
		})
		c.keys = append(c.keys, kmskey.Config{Name: arn, KMS: client})
		for range costObjects / costKeys {
			sealed, err := client.Encrypt(t.Context(), awskms.Call{}, arn, secret.Bytes("a DEK"))
			if err != nil {
				t.Fatal(err)
			}
			c.objects[i] = append(c.objects[i], keyring.Stored{Ciphertext: append([]byte("1"), sealed.Blob...), Bare: true})
		}
	}
	return c
}

// read reads objects with a process that has just started, some at a time, and
// returns how many calls of KMS that took.
func (c *costs) read(t *testing.T, objects []keyring.Stored, atOnce int) int64 {
	t.Helper()
	keys := make([]*kmskey.Key, 0, costKeys)
	for _, k := range c.keys {
		keys = append(keys, kmskey.New(k))
	}
	p := provider.New(provider.Options{Name: "0", Keys: keys, Timeout: time.Minute, Log: slog.New(slog.DiscardHandler)})
	before := c.decrypts.Load()
	queue := make(chan keyring.Stored)
	var readers sync.WaitGroup
	for range atOnce {
		readers.Go(func() {
			for object := range queue {
				if plaintext, err := p.Decrypt(t.Context(), object); err != nil || string(plaintext) != "a DEK" {
					t.Errorf("an object of a configured key: %v", err)
				}
			}
		})
	}
	for _, object := range objects {
		queue <- object
	}
	close(queue)
	readers.Wait()
	return c.decrypts.Load() - before
}

// A v1 object names no key, and an API server that starts reads all of them: data
// that lies together by key must cost little more than a call an object.
func TestCostOfReadingV1DataUnderFiveKeys(t *testing.T) {
	c := newCosts(t)
	inOrder := func(order ...int) (objects []keyring.Stored) {
		for _, i := range order {
			objects = append(objects, c.objects[i]...)
		}
		return objects
	}
	for name, order := range map[string][]int{"in the order of the keys": {0, 1, 2, 3, 4}, "in the opposite order": {4, 3, 2, 1, 0}} {
		one, ten := c.read(t, inOrder(order...), 1), c.read(t, inOrder(order...), 10)
		t.Logf("%d objects, grouped, %s: %d calls one at a time, %d ten at a time", costObjects, name, one, ten)
		if one > 1015 || ten > 1150 {
			t.Errorf("grouped %s: %d calls one at a time, %d ten at a time; want at most 1,015 and 1,150", name, one, ten)
		}
	}
	shuffled := inOrder(0, 1, 2, 3, 4)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] }) //nolint:gosec // an order is no secret
	calls := c.read(t, shuffled, 10)
	t.Logf("%d objects, shuffled: %d calls", costObjects, calls)
	if calls > costKeys*costObjects {
		t.Errorf("shuffled: %d calls, want at most one per key and object", calls)
	}
}
