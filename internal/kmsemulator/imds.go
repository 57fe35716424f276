package kmsemulator

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An Instance is the EC2 instance that [Emulator.IMDS] describes. Empty fields
// have the values named beside them.
type Instance struct {
	Region string // us-west-2
	Role   string // emulator: the role whose credentials the instance has
	ID     string // i-1234567890abcdef0
}

func (i Instance) region() string { return or(i.Region, "us-west-2") }
func (i Instance) role() string   { return or(i.Role, "emulator") }
func (i Instance) id() string     { return or(i.ID, "i-1234567890abcdef0") }

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// instanceSession is how long the instance's credentials last.
const instanceSession = 6 * time.Hour

// imdsTokens are the session tokens handed out, with their ends.
type imdsTokens struct {
	mu    sync.Mutex
	ends  map[string]time.Time
	creds Credential // of the role, kept until it is about to expire
}

// IMDS returns a handler that answers as the instance metadata service does,
// version 2 only: reach it by AWS_EC2_METADATA_SERVICE_ENDPOINT.
//
// See https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
func (e *Emulator) IMDS() http.Handler { return http.HandlerFunc(e.serveIMDS) }

func (e *Emulator) serveIMDS(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "EC2ws")
	switch {
	case r.Header.Get("X-Forwarded-For") != "":
		imdsError(w, http.StatusForbidden)
	case r.URL.Path == "/latest/api/token":
		e.serveToken(w, r)
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", "GET")
		imdsError(w, http.StatusMethodNotAllowed)
	case !e.imds.valid(r.Header.Get("X-Aws-Ec2-Metadata-Token"), e.clock()):
		imdsError(w, http.StatusUnauthorized)
	default:
		e.serveMetadata(w, r)
	}
}

func (e *Emulator) serveToken(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPut {
		w.Header().Set("Allow", "OPTIONS, PUT")
		imdsError(w, http.StatusMethodNotAllowed)
		return
	}
	const header = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	ttl, err := strconv.Atoi(r.Header.Get(header))
	if err != nil || ttl < 1 || ttl > 21600 {
		imdsError(w, http.StatusBadRequest)
		return
	}
	w.Header().Set(header, strconv.Itoa(ttl))
	imdsText(w, e.imds.issue(e.clock(), time.Duration(ttl)*time.Second))
}

func (t *imdsTokens) issue(now time.Time, ttl time.Duration) string {
	var b [42]byte
	_, _ = rand.Read(b[:])
	token := base64.URLEncoding.EncodeToString(b[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ends == nil {
		t.ends = make(map[string]time.Time)
	}
	for old, end := range t.ends {
		if !now.Before(end) {
			delete(t.ends, old)
		}
	}
	t.ends[token] = now.Add(ttl)
	return token
}

func (t *imdsTokens) valid(token string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	end, ok := t.ends[token]
	return ok && now.Before(end)
}

func (e *Emulator) serveMetadata(w http.ResponseWriter, r *http.Request) {
	const roles = "/latest/meta-data/iam/security-credentials/"
	i := e.options.Instance
	switch path := r.URL.Path; path {
	case "/latest/meta-data/placement/region":
		imdsText(w, i.region())
	case "/latest/meta-data/placement/availability-zone":
		imdsText(w, i.region()+"a")
	case "/latest/meta-data/instance-id":
		imdsText(w, i.id())
	case "/latest/dynamic/instance-identity/document":
		imdsJSON(w, map[string]any{
			"accountId": e.account, "architecture": "x86_64", "availabilityZone": i.region() + "a", "imageId": "ami-5fb8c835",
			"instanceId": i.id(), "instanceType": "t3.micro", "pendingTime": e.clock().UTC().Format(time.RFC3339),
			"privateIp": "10.158.112.84", "region": i.region(), "version": "2017-09-30",
		})
	case roles, strings.TrimSuffix(roles, "/"):
		imdsText(w, i.role())
	case roles + i.role():
		imdsJSON(w, e.instanceCredentials())
	default:
		imdsError(w, http.StatusNotFound)
	}
}

// instanceCredentials returns the role's credentials, new ones well before the
// old expire, as an instance has them.
func (e *Emulator) instanceCredentials() map[string]string {
	now := e.clock()
	e.imds.mu.Lock()
	defer e.imds.mu.Unlock()
	if now.Add(time.Hour).After(e.imds.creds.Expires) {
		i := e.options.Instance
		e.imds.creds = temporary(e.arn("sts", "", "assumed-role/"+i.role()+"/"+i.id()), now.Add(instanceSession))
		e.signers.add(e.imds.creds)
	}
	c := e.imds.creds
	return map[string]string{
		"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": c.Expires.Add(-instanceSession).UTC().Format(time.RFC3339),
		"AccessKeyId": c.AccessKeyID, "SecretAccessKey": c.SecretAccessKey, "Token": c.SessionToken,
		"Expiration": c.Expires.UTC().Format(time.RFC3339),
	}
}

func imdsText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, text)
}

func imdsJSON(w http.ResponseWriter, v any) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // made of strings
	}
	imdsText(w, string(text))
}

func imdsError(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `<?xml version="1.0" encoding="iso-8859-1"?>
<html><head><title>`+strconv.Itoa(status)+" - "+http.StatusText(status)+`</title></head><body></body></html>
`)
}
