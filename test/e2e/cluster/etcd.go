package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// An Etcd is an etcd of one member with a client at its side.
type Etcd struct {
	Program

	URL string

	client *clientv3.Client
}

// Etcd starts an etcd whose data is in dir and waits until it answers. Its
// writes reach the disk before they are acknowledged, as in production, so that
// SIGKILL loses nothing.
func (h *Host) Etcd(ctx context.Context, dir string) (*Etcd, error) {
	client, err := h.Address(ctx)
	if err != nil {
		return nil, err
	}
	peer, err := h.Address(ctx)
	if err != nil {
		return nil, err
	}
	e := &Etcd{URL: "http://" + client}
	e.Program = Program{
		Name: "etcd",
		Path: h.Bin.Etcd,
		Args: []string{
			"--data-dir=" + filepath.Join(dir, "etcd"),
			"--listen-client-urls=" + e.URL,
			"--advertise-client-urls=" + e.URL,
			"--listen-peer-urls=http://" + peer,
			"--initial-advertise-peer-urls=http://" + peer,
			"--initial-cluster=default=http://" + peer,
		},
		Env: environment(dir),
		Log: filepath.Join(dir, "etcd.log"),
	}
	e.client, err = clientv3.New(clientv3.Config{Endpoints: []string{e.URL}, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	return e, e.Start(ctx)
}

// Start starts etcd, also again after its end, and waits until it answers.
func (e *Etcd) Start(ctx context.Context) error {
	err := e.serve(ctx, time.Minute, func(ctx context.Context) error {
		return expectOK(ctx, http.DefaultClient, e.URL+"/health")
	})
	if err != nil {
		return fmt.Errorf("etcd is not ready: %w; its log ends:\n%s", err, e.Tail(20))
	}
	return nil
}

// Close kills etcd and lets go of its client.
func (e *Etcd) Close() error {
	return errors.Join(e.client.Close(), e.Kill())
}

// Values returns the raw values of all keys that start with prefix, by key.
func (e *Etcd) Values(ctx context.Context, prefix string) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	got, err := e.client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read %s from etcd: %w", prefix, err)
	}
	values := make(map[string][]byte, len(got.Kvs))
	for _, kv := range got.Kvs {
		values[string(kv.Key)] = kv.Value
	}
	return values, nil
}
