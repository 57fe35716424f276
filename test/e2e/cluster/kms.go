package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
)

// The Region and the caller that every plugin here uses: AWS's own examples.
const (
	Region          = "us-west-2"
	accessKeyID     = "AKIAIOSFODNN7EXAMPLE"
	secretAccessKey = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

// Credentials are the caller's, as variables of an environment.
func Credentials() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + accessKeyID, "AWS_SECRET_ACCESS_KEY=" + secretAccessKey}
}

// A KMS is an emulated AWS KMS at an address of its own, in this process. It
// can be taken off the network and put back with its keys.
type KMS struct {
	*kmsemulator.Emulator

	address string

	mu     sync.Mutex
	server *http.Server  // nil while off the network
	served chan struct{} // closed when server has let go of the address
}

// KMS starts an empty KMS. It knows one caller, whatever o says.
func (h *Host) KMS(ctx context.Context, o kmsemulator.Options) (*KMS, error) {
	address, err := h.Address(ctx)
	if err != nil {
		return nil, err
	}
	o.Credentials = []kmsemulator.Credential{{AccessKeyID: accessKeyID, SecretAccessKey: secretAccessKey}}
	emulator, err := kmsemulator.New(o)
	if err != nil {
		return nil, err
	}
	k := &KMS{Emulator: emulator, address: address}
	return k, k.Listen(ctx)
}

// URL is the endpoint for --kms-endpoint.
func (k *KMS) URL() string { return "http://" + k.address }

// Listen puts the KMS on the network, again at the same address.
func (k *KMS) Listen(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.server != nil {
		return errors.New("the KMS is on the network already")
	}
	l, err := listen(ctx, k.address)
	if err != nil {
		return fmt.Errorf("KMS: %w", err)
	}
	server, served := k.Server(), make(chan struct{})
	k.server, k.served = server, served
	go func() { // ends with Unlisten
		defer close(served)
		_ = server.Serve(l)
	}()
	return nil
}

// Unlisten takes the KMS off the network: connections break and new ones are
// refused.
func (k *KMS) Unlisten() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.server != nil {
		_ = k.server.Close()
		<-k.served
		k.server = nil
	}
}

// Close ends the KMS and forgets its keys.
func (k *KMS) Close() error {
	k.Unlisten()
	return k.Emulator.Close()
}
