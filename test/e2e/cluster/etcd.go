package cluster

import (
	"cmp"
	"context"
	"crypto/tls"
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
	http   *http.Client
}

// EtcdOptions are how an etcd differs from the usual one, which is the zero value.
type EtcdOptions struct {
	Path string      // the binary; empty: that of the host
	Args []string    // more of its command line; the last of two equal flags counts
	TLS  *tls.Config // for its own client; nil: it serves plain HTTP. Args name the server's files
}

// Etcd starts an etcd whose data is in dir and waits until it answers. Its
// writes reach the disk before they are acknowledged, as in production, so that
// SIGKILL loses nothing.
func (h *Host) Etcd(ctx context.Context, dir string) (*Etcd, error) {
	return h.EtcdWith(ctx, dir, EtcdOptions{})
}

// EtcdWith starts an etcd as Etcd does, with options.
func (h *Host) EtcdWith(ctx context.Context, dir string, o EtcdOptions) (*Etcd, error) {
	client, err := h.Address(ctx)
	if err != nil {
		return nil, err
	}
	peer, err := h.Address(ctx)
	if err != nil {
		return nil, err
	}
	e := &Etcd{URL: "http://" + client, http: http.DefaultClient}
	if o.TLS != nil {
		e.URL = "https://" + client
		e.http = &http.Client{Transport: &http.Transport{TLSClientConfig: o.TLS}}
	}
	e.Program = Program{
		Name: "etcd",
		Path: cmp.Or(o.Path, h.Bin.Etcd),
		Args: append([]string{
			"--data-dir=" + filepath.Join(dir, "etcd"),
			"--listen-client-urls=" + e.URL,
			"--advertise-client-urls=" + e.URL,
			"--listen-peer-urls=http://" + peer,
			"--initial-advertise-peer-urls=http://" + peer,
			"--initial-cluster=default=http://" + peer,
		}, o.Args...),
		Env: environment(dir),
		Log: filepath.Join(dir, "etcd.log"),
	}
	e.client, err = clientv3.New(clientv3.Config{Endpoints: []string{e.URL}, TLS: o.TLS, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	return e, e.Start(ctx)
}

// Start starts etcd, also again after its end, and waits until it answers.
func (e *Etcd) Start(ctx context.Context) error {
	err := e.serve(ctx, time.Minute, func(ctx context.Context) error {
		return expectOK(ctx, e.http, e.URL+"/health")
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

// Client is etcd's own. It ends with Close.
func (e *Etcd) Client() *clientv3.Client { return e.client }

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
