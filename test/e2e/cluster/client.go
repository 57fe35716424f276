package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// The paths of the API server's KMS checks.
const (
	KMSCheck   = "/healthz/kms-providers"  // with automatic reload, or with v2 providers only
	KMSv1Check = "/healthz/kms-provider-0" // the first v1 provider, without reload
)

const (
	namespace   = "default"
	secretsPath = "/api/v1/namespaces/" + namespace + "/secrets"
	mapsPath    = "/api/v1/namespaces/" + namespace + "/configmaps"
)

// Token is what every API server here takes for its administrator's.
const Token = "end-to-end"

// SecretPath is a secret's path in the API.
func SecretPath(name string) string { return secretsPath + "/" + name }

// A Client asks an API server for what the tests need: secrets and health. It
// never tries twice.
type Client struct {
	url  string
	http *http.Client
}

func newClient(url string, pool *x509.CertPool) *Client {
	return &Client{url: url, http: &http.Client{
		Timeout: time.Minute, // the API server's own limit for a request
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2: true,
		},
	}}
}

// A StatusError is an answer of the API server other than success.
type StatusError struct {
	Method, Path string
	Code         int
	Text         string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: %d: %s", e.Method, e.Path, e.Code, e.Text)
}

// URL is the API server's address.
func (c *Client) URL() string { return c.url }

func (c *Client) request(ctx context.Context, method, path string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+Token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, text, err
}

// do asks for an object and fails unless the answer is a success.
func (c *Client) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	code, text, err := c.request(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	if code/100 != 2 {
		var status struct{ Message string }
		if json.Unmarshal(text, &status) == nil && status.Message != "" {
			text = []byte(status.Message)
		}
		return nil, &StatusError{Method: method, Path: path, Code: code, Text: string(text)}
	}
	return text, nil
}

// Check asks a health path and returns its status and text.
func (c *Client) Check(ctx context.Context, path string) (code int, text string, err error) {
	code, body, err := c.request(ctx, http.MethodGet, path, nil)
	return code, string(bytes.TrimSpace(body)), err
}

// Metrics returns the API server's own metrics.
func (c *Client) Metrics(ctx context.Context) (Samples, error) {
	page, err := c.do(ctx, http.MethodGet, "/metrics", nil)
	return ParseMetrics(string(page)), err
}

type secret struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   secretMetadata    `json:"metadata"`
	Data       map[string][]byte `json:"data"`
}

type secretMetadata struct {
	Name            string `json:"name"`
	ResourceVersion string `json:"resourceVersion,omitempty"`
}

// valueField is the only field of a secret that the tests use.
const valueField = "value"

// CreateSecret writes a new secret. When it returns nil, the API server has
// acknowledged the write.
func (c *Client) CreateSecret(ctx context.Context, name, value string) error {
	body, err := json.Marshal(secret{
		APIVersion: "v1", Kind: "Secret",
		Metadata: secretMetadata{Name: name},
		Data:     map[string][]byte{valueField: []byte(value)},
	})
	if err != nil {
		return err
	}
	_, err = c.do(ctx, http.MethodPost, secretsPath, body)
	return err
}

// CreateConfigMap writes a new config map with one field.
func (c *Client) CreateConfigMap(ctx context.Context, name, value string) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]string{"name": name},
		"data":     map[string]string{valueField: value},
	})
	if err != nil {
		return err
	}
	_, err = c.do(ctx, http.MethodPost, mapsPath, body)
	return err
}

// Secret reads a secret's value.
func (c *Client) Secret(ctx context.Context, name string) (string, error) {
	text, err := c.do(ctx, http.MethodGet, SecretPath(name), nil)
	if err != nil {
		return "", err
	}
	var s secret
	if err := json.Unmarshal(text, &s); err != nil {
		return "", fmt.Errorf("secret %s: %w", name, err)
	}
	return string(s.Data[valueField]), nil
}

// Secrets lists all secrets' values, by name.
func (c *Client) Secrets(ctx context.Context) (map[string]string, error) {
	text, err := c.do(ctx, http.MethodGet, secretsPath, nil)
	if err != nil {
		return nil, err
	}
	var list struct{ Items []secret }
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("list of secrets: %w", err)
	}
	values := make(map[string]string, len(list.Items))
	for _, s := range list.Items {
		values[s.Metadata.Name] = string(s.Data[valueField])
	}
	return values, nil
}

// RewriteSecrets replaces every secret by itself, unchanged, as
// `kubectl get secrets -o json | kubectl replace -f -` does: the API server
// encrypts what is stale again.
func (c *Client) RewriteSecrets(ctx context.Context) error {
	text, err := c.do(ctx, http.MethodGet, secretsPath, nil)
	if err != nil {
		return err
	}
	var list struct{ Items []json.RawMessage }
	if err := json.Unmarshal(text, &list); err != nil {
		return fmt.Errorf("list of secrets: %w", err)
	}
	for _, item := range list.Items {
		var s secret
		if err := json.Unmarshal(item, &s); err != nil {
			return err
		}
		if _, err := c.do(ctx, http.MethodPut, SecretPath(s.Metadata.Name), item); err != nil {
			return err
		}
	}
	return nil
}

// expectOK fails unless url answers 200.
func expectOK(ctx context.Context, client *http.Client, url string) error {
	_, err := getOK(ctx, client, url)
	return err
}

// Text returns what url answers, whatever its status is.
func Text(ctx context.Context, url string) (string, error) {
	_, text, err := get(ctx, http.DefaultClient, url)
	return text, err
}

// getOK returns what url answers, and fails unless that is 200.
func getOK(ctx context.Context, client *http.Client, url string) (string, error) {
	code, text, err := get(ctx, client, url)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%s is %d: %s", url, code, strings.TrimSpace(text))
	}
	if err != nil {
		return "", err
	}
	return text, nil
}

func get(ctx context.Context, client *http.Client, url string) (code int, text string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}
