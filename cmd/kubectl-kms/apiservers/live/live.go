// Package live asks the API servers of a cluster what package apiservers judges.
//
// [New] makes a [Cluster]. It reads Leases, an EndpointSlice and the names of nodes from
// the kubeconfig's API server, and metrics and health from each API server by itself, each
// time over a connection of its own: over one that stays open, a load balancer would show
// one API server only.
package live

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/kube"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// A Cluster implements [apiservers.Cluster]. It may be used by many goroutines.
type Cluster struct {
	kube *kube.Cluster

	mu      sync.Mutex
	clients map[string]*http.Client // by address
}

// New returns a Cluster.
func New(k *kube.Cluster) *Cluster {
	return &Cluster{kube: k, clients: map[string]*http.Client{}}
}

// maxBody bounds what is read of an answer that is kept.
const maxBody = 32 << 20

// Members implements [apiservers.Cluster].
func (c *Cluster) Members(ctx context.Context) (apiservers.Members, error) {
	m := apiservers.Members{Now: time.Now()}
	if err := c.leases(ctx, &m); err != nil {
		return m, err
	}
	if err := c.addresses(ctx, &m); err != nil {
		return m, err
	}
	return m, c.nodes(ctx, &m)
}

// identity labels the Leases of API servers: pkg/controlplane/apiserver/server.go.
const identity = "apiserver.kubernetes.io/identity=kube-apiserver"

// A lease is what is needed of one.
type lease struct {
	Metadata struct {
		Name            string            `json:"name"`
		Labels          map[string]string `json:"labels"`
		ResourceVersion string            `json:"resourceVersion"`
	} `json:"metadata"`
	Spec struct {
		HolderIdentity       string    `json:"holderIdentity"`
		LeaseDurationSeconds int64     `json:"leaseDurationSeconds"`
		RenewTime            time.Time `json:"renewTime"`
	} `json:"spec"`
}

func leasesPath() string {
	return "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases?labelSelector=" + url.QueryEscape(identity)
}

func (c *Cluster) leases(ctx context.Context, m *apiservers.Members) error {
	var list struct {
		Items []lease `json:"items"`
	}
	header, err := c.get(ctx, leasesPath(), "list on leases.coordination.k8s.io in kube-system", "application/json", &list)
	if err != nil {
		return err
	}
	if at, err := http.ParseTime(header.Get("Date")); err == nil {
		m.Now = at
	}
	for _, l := range list.Items {
		revision, _ := strconv.ParseInt(l.Metadata.ResourceVersion, 10, 64) // 0 is of no etcd
		m.Leases = append(m.Leases, apiservers.Lease{
			Name: l.Metadata.Name, Host: l.Metadata.Labels["kubernetes.io/hostname"], Holder: l.Spec.HolderIdentity,
			Revision: revision, Renewed: l.Spec.RenewTime, Duration: time.Duration(l.Spec.LeaseDurationSeconds) * time.Second,
		})
	}
	return nil
}

// Renewals implements [apiservers.Cluster]. A watch without a resourceVersion begins with
// what is there.
func (c *Cluster) Renewals(ctx context.Context, d time.Duration) (map[string][]time.Time, error) {
	client, err := c.client("")
	if err != nil {
		return nil, err
	}
	const right = "watch on leases.coordination.k8s.io in kube-system"
	watching, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	resp, err := get(watching, client, c.kube.Server()+leasesPath()+"&watch=true", "application/json")
	if err != nil {
		return nil, kube.Explain(ctx, c.kube.Server(), right, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		return nil, kube.Explain(ctx, c.kube.Server(), right, statusError(resp.StatusCode, body))
	}
	renewals := map[string][]time.Time{}
	for events := json.NewDecoder(resp.Body); ; {
		var event struct {
			Type   string `json:"type"`
			Object lease  `json:"object"`
		}
		err := events.Decode(&event)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case watching.Err() != nil: // as long as was wanted
			return renewals, nil
		case err != nil, event.Type == "ERROR":
			return nil, &store.Error{Place: c.kube.Server(), Reason: "it ended a watch of Leases early", Next: "Run this again when no API server restarts", Err: err}
		case event.Type != "DELETED":
			name := event.Object.Metadata.Name
			renewals[name] = append(renewals[name], event.Object.Spec.RenewTime)
		}
	}
}

func (c *Cluster) addresses(ctx context.Context, m *apiservers.Members) error {
	var list struct {
		Items []struct {
			Endpoints []struct {
				Addresses []string `json:"addresses"`
			} `json:"endpoints"`
			Ports []struct {
				Name string `json:"name"`
				Port int    `json:"port"`
			} `json:"ports"`
		} `json:"items"`
	}
	const path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dkubernetes"
	if _, err := c.get(ctx, path, "list on endpointslices.discovery.k8s.io in default", "application/json", &list); err != nil {
		return err
	}
	for _, slice := range list.Items {
		for _, port := range slice.Ports {
			for _, endpoint := range slice.Endpoints {
				for _, address := range endpoint.Addresses {
					m.Addresses = append(m.Addresses, net.JoinHostPort(address, strconv.Itoa(port.Port)))
				}
			}
		}
	}
	return nil
}

// onlyMetadata asks for no more of nodes than their names.
const onlyMetadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

func (c *Cluster) nodes(ctx context.Context, m *apiservers.Members) error {
	var list struct {
		Items []struct{} `json:"items"`
	}
	_, err := c.get(ctx, "/api/v1/nodes?labelSelector=node-role.kubernetes.io%2Fcontrol-plane", "list on nodes", onlyMetadata, &list)
	if apierrors.IsForbidden(err) {
		m.Nodes = -1
		return nil
	}
	m.Nodes = len(list.Items)
	return err
}

// kubeSystem returns the resourceVersion of namespace kube-system. It hardly ever changes,
// and etcd has it as the revision of that key: where they differ, two places are of
// different clusters.
func (c *Cluster) kubeSystem(ctx context.Context) (int64, error) {
	var namespace metav1.PartialObjectMetadata
	if _, err := c.get(ctx, "/api/v1/namespaces/kube-system", "get on namespace kube-system", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", &namespace); err != nil {
		return 0, err
	}
	revision, err := strconv.ParseInt(namespace.ResourceVersion, 10, 64)
	if err != nil {
		return 0, &store.Error{Place: c.kube.Server(), Reason: "the resourceVersion of namespace kube-system is no number"}
	}
	return revision, nil
}

// get asks the kubeconfig's API server for JSON.
func (c *Cluster) get(ctx context.Context, path, right, accept string, into any) (http.Header, error) {
	client, err := c.client("")
	if err != nil {
		return nil, err
	}
	header, err := getJSON(ctx, client, c.kube.Server()+path, accept, into)
	return header, kube.Explain(ctx, c.kube.Server(), right, err)
}

func getJSON(ctx context.Context, client *http.Client, address, accept string, into any) (http.Header, error) {
	resp, err := get(ctx, client, address, accept)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, statusError(resp.StatusCode, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return nil, fmt.Errorf("the answer is not JSON of an API server: %w", err)
	}
	return resp.Header, nil
}

func get(ctx context.Context, client *http.Client, address, accept string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	return client.Do(req)
}

// statusError is what an answer means that is no success.
func statusError(code int, body []byte) error {
	var status metav1.Status
	if json.Unmarshal(body, &status) == nil && status.Kind == "Status" {
		return &apierrors.StatusError{ErrStatus: status}
	}
	text := strings.TrimSpace(string(body[:min(len(body), 256)]))
	return apierrors.NewGenericServerResponse(code, "get", schema.GroupResource{}, "", text, 0, false)
}

// client returns the client of an address, HOST:PORT or a URL. "" is the kubeconfig's.
func (c *Cluster) client(address string) (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if client := c.clients[address]; client != nil {
		return client, nil
	}
	config := c.kube.Config()
	switch {
	case strings.Contains(address, "://"):
		config = c.kube.At(address, "")
	case address != "":
		config = c.kube.At("https://"+address, "kubernetes")
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, &store.Error{Place: c.kube.From, Reason: err.Error(), Next: "kubectl reads the same file: try kubectl version", Err: err}
	}
	c.clients[address] = client
	return client, nil
}

// URL is an address as a URL.
func URL(address string) string {
	if strings.Contains(address, "://") {
		return strings.TrimSuffix(address, "/")
	}
	return "https://" + address
}

// Ask implements [apiservers.Cluster]. Health comes first: the API server asks its plugins
// again for it, and its metrics then have what they said.
func (c *Cluster) Ask(ctx context.Context, address string) (apiservers.Answer, error) {
	client, err := c.client(address)
	if err != nil {
		return apiservers.Answer{}, err
	}
	utilnet.CloseIdleConnectionsFor(client.Transport)
	health, known, err := checkHealth(ctx, client, URL(address))
	if err != nil {
		return apiservers.Answer{}, kube.Explain(ctx, address, "get on /healthz", err)
	}
	a, err := readMetrics(ctx, client, URL(address))
	if err != nil {
		return apiservers.Answer{}, kube.Explain(ctx, address, "get on /metrics", err)
	}
	a.Health, a.HealthKnown = health, known
	return a, nil
}

func readMetrics(ctx context.Context, client *http.Client, address string) (apiservers.Answer, error) {
	resp, err := get(ctx, client, address+"/metrics", "text/plain")
	if err != nil {
		return apiservers.Answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		return apiservers.Answer{}, statusError(resp.StatusCode, body)
	}
	a, err := apiservers.ReadMetrics(resp.Body)
	a.Now = time.Now()
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		a.Now = at
	}
	return a, err
}

// checkHealth returns which check of KMS plugins fails, and whether that was told. All
// checks are asked for: without automatic reload, each provider of v1 has one of its own.
func checkHealth(ctx context.Context, client *http.Client, address string) (failing string, known bool, err error) {
	resp, err := get(ctx, client, address+"/healthz?verbose", "")
	if err != nil {
		return "", false, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	switch {
	case err != nil:
		return "", false, err
	case resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusUnauthorized:
		return "", false, statusError(resp.StatusCode, body)
	}
	for line := range strings.Lines(string(body)) {
		sign, name, _ := strings.Cut(strings.TrimSpace(line), "]")
		name, _, _ = strings.Cut(name, " ")
		if !strings.HasPrefix(name, "kms-provider") {
			known = known || sign == "[+" || sign == "[-"
			continue
		}
		known = true
		if sign == "[-" && failing == "" {
			failing = reason(ctx, client, address, name)
		}
	}
	return failing, known, nil
}

// reason asks a check by itself, which says why it fails where the list does not.
func reason(ctx context.Context, client *http.Client, address, check string) string {
	resp, err := get(ctx, client, address+"/healthz/"+check, "")
	if err != nil {
		return check + " failed"
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode == http.StatusForbidden || len(text) == 0 {
		return check + " failed"
	}
	return strings.TrimSpace(string(text))
}
