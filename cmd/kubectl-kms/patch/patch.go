// Package patch sends objects to an API server as they are, so that it writes them again,
// and finds out what admission may do to them on the way.
//
// An object is sent as an empty merge patch that names its resourceVersion. A patch
// creates nothing, which PUT and server-side apply can. The answer that is asked for has
// no more than an object's metadata, of which the resourceVersion alone is read: an
// annotation, such as kubectl's last-applied-configuration, may hold the values of a
// Secret.
//
// An API server's words about an object are not passed on: a validation's message quotes
// the value that it refuses, and a webhook's may say anything. What is passed on are
// reasons out of closed sets, and names of webhooks and policies.
package patch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// FieldManager is who has changed an object, as its managedFields would say. An empty
// patch changes no field.
const FieldManager = "kubectl-kms"

// Media types.
const (
	mergePatch   = "application/merge-patch+json"
	plainJSON    = "application/json"
	metadataOnly = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	metadataList = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// largest is more than an answer can have: etcd takes objects of 1.5 MiB.
const largest = 64 << 20

// A Client sends requests to one API server. It implements [rewrite.Patcher] and
// [rewrite.Admissions]. Its methods may be called at once by many goroutines.
type Client struct {
	http *http.Client
	base *url.URL

	mu     sync.Mutex
	served map[rewrite.Resource]serving
}

// A serving says how a resource is served, or why it is not.
type serving struct {
	path       string // such as /api/v1 or /apis/apps/v1
	namespaced bool
	why        string // empty: it is
}

// New returns a Client. client has the credentials and trusts the API server; base is
// its address. Requests are not tried again.
func New(client *http.Client, base *url.URL) *Client {
	return &Client{http: client, base: base, served: map[rewrite.Resource]serving{}}
}

// Learn implements [rewrite.Patcher].
func (c *Client) Learn(ctx context.Context, resources []rewrite.Resource) error {
	byGroup := map[string][]rewrite.Resource{}
	for _, r := range resources {
		if _, known := c.serving(r); !known {
			byGroup[r.Group] = append(byGroup[r.Group], r)
		}
	}
	for group, wanted := range byGroup {
		found, silent, err := c.group(ctx, group)
		if err != nil {
			return err
		}
		for _, r := range wanted {
			s, ok := found[r.Name]
			if !ok {
				s.why = cmp.Or(silent, "no API server serves the resource any more")
			}
			c.mu.Lock()
			c.served[r] = s
			c.mu.Unlock()
		}
	}
	return nil
}

func (c *Client) serving(r rewrite.Resource) (s serving, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, known = c.served[r]
	return s, known
}

// Serves implements [rewrite.Patcher].
func (c *Client) Serves(r rewrite.Resource) (why string) {
	s, _ := c.serving(r)
	return s.why
}

// group returns how the resources of a group are served, by name: in the version that
// the API server prefers, or else in the first that has them. silent says that not every
// version was told, as with an aggregated API server that is down.
func (c *Client) group(ctx context.Context, group string) (found map[string]serving, silent string, err error) {
	found = map[string]serving{}
	paths := []string{"/api/v1"}
	if group != "" {
		var g struct {
			PreferredVersion version
			Versions         []version
		}
		path := "/apis/" + url.PathEscape(group)
		if err := c.get(ctx, path, plainJSON, &g); err != nil {
			if refusal, ok := errors.AsType[*rewrite.RefusalError](err); ok && refusal.Code == http.StatusNotFound {
				return found, "", nil
			}
			return nil, "", fmt.Errorf("asking how %s is served: %w", report.Clip(group, 256), err)
		}
		paths = nil
		for _, v := range append([]version{g.PreferredVersion}, g.Versions...) {
			if v.Version != "" && !slices.Contains(paths, path+"/"+v.Version) {
				paths = append(paths, path+"/"+url.PathEscape(v.Version))
			}
		}
	}
	for _, path := range paths {
		err := c.resources(ctx, path, found)
		if refusal, ok := errors.AsType[*rewrite.RefusalError](err); ok && refusal.Code >= http.StatusInternalServerError {
			silent = "the API server behind " + report.Clip(path, 256) + " does not say what it serves"
			continue
		}
		if err != nil {
			return nil, "", fmt.Errorf("asking what %s serves: %w", report.Clip(path, 256), err)
		}
	}
	return found, silent, nil
}

type version struct{ Version string }

// resources adds those of one version that are not there yet.
func (c *Client) resources(ctx context.Context, path string, found map[string]serving) error {
	var list struct {
		Resources []struct {
			Name       string
			Namespaced bool
			Verbs      []string
		}
	}
	if err := c.get(ctx, path, plainJSON, &list); err != nil {
		return err
	}
	for _, r := range list.Resources {
		s := serving{path: path, namespaced: r.Namespaced}
		if !slices.Contains(r.Verbs, "patch") {
			s.why = "the API server takes no patch of this resource"
		}
		if before, ok := found[r.Name]; !strings.Contains(r.Name, "/") && (!ok || before.why != "") {
			found[r.Name] = s
		}
	}
	return nil
}

// at is the path of an object.
func (s serving) at(o rewrite.Object) string {
	path := s.path
	if s.namespaced {
		path += "/namespaces/" + url.PathEscape(o.Namespace)
	}
	return path + "/" + url.PathEscape(o.Resource.Name) + "/" + url.PathEscape(o.Object)
}

// Patch implements [rewrite.Patcher].
func (c *Client) Patch(ctx context.Context, o rewrite.Object) (revision int64, err error) {
	s, known := c.serving(o.Resource)
	if !known || s.why != "" || s.namespaced != (o.Namespace != "") {
		return 0, &rewrite.RefusalError{Code: http.StatusBadRequest, Cause: "the API server serves no object at this path", Next: "Look at it with kubectl get"}
	}
	body := fmt.Appendf(nil, `{"metadata":{"resourceVersion":"%d"}}`, o.Revision)
	return c.metadata(ctx, http.MethodPatch, s.at(o)+"?fieldManager="+FieldManager, body)
}

// metadata asks for an object's resourceVersion.
func (c *Client) metadata(ctx context.Context, method, path string, body []byte) (revision int64, err error) {
	var object struct {
		Metadata struct{ ResourceVersion string }
	}
	if err := c.do(ctx, method, path, metadataOnly, body, &object); err != nil {
		return 0, err
	}
	revision, err = strconv.ParseInt(object.Metadata.ResourceVersion, 10, 64)
	if err != nil || revision <= 0 {
		return 0, errors.New("the answer is of no API server: it has no resourceVersion")
	}
	return revision, nil
}

func (c *Client) get(ctx context.Context, path, accept string, into any) error {
	return c.do(ctx, http.MethodGet, path, accept, nil, into)
}

// do sends one request. Errors have no word of what the answer says.
func (c *Client) do(ctx context.Context, method, path, accept string, body []byte, into any) error {
	at, err := url.Parse(strings.TrimSuffix(c.base.String(), "/") + path)
	if err != nil {
		return errors.New("the address of the API server makes no URL")
	}
	request, err := http.NewRequestWithContext(ctx, method, at.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Accept", accept)
	if body != nil {
		request.Header.Set("Content-Type", mergePatch)
	}
	answer, err := c.http.Do(request)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // its text has the whole URL
		}
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(answer.Body, largest))
	switch {
	case err != nil:
		return fmt.Errorf("reading the answer: %w", err)
	case answer.StatusCode/100 != 2:
		return refusalOf(answer.StatusCode, answer.Header, text)
	case json.Unmarshal(text, into) != nil:
		return errors.New("the answer is of no API server: it is no JSON")
	}
	return nil
}
