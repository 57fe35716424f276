// Package inquiry asks a running plugin over its socket what an API server asks
// at its start: Status, and a round trip of each API. It changes nothing.
//
// What is wrong is in the Report; there is no other error. A Report belongs to
// its caller, and Ask may be called concurrently.
package inquiry

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc"
	grpcstatus "google.golang.org/grpc/status"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
)

// A Question is whom to ask, and what to expect.
type Question struct {
	Socket      string        // a path, or @name for an abstract one
	ExpectKeyID string        // as it is, as sha256:HEX, or the key's ARN alone; "": any
	Health      string        // address of the health port, which tells of each key; "": it is not asked
	Timeout     time.Duration // of each call
}

// A Report is what a plugin answered. Its JSON form is version 1: fields
// are added and never change their meaning.
type Report struct {
	Version     int      `json:"version"`
	Socket      string   `json:"socket"`
	OK          bool     `json:"ok"`
	Problems    []string `json:"problems"`
	Healthz     string   `json:"healthz"`
	KeyID       string   `json:"keyID"`
	KeyIDHash   string   `json:"keyIDHash"` // as kube-apiserver's metrics show it
	V1Version   string   `json:"v1Version"`
	V1Runtime   string   `json:"v1Runtime"`
	V2Version   string   `json:"v2Version"`
	V1RoundTrip float64  `json:"v1RoundTripSeconds"`
	V2RoundTrip float64  `json:"v2RoundTripSeconds"`
	Readyz      []string `json:"readyz,omitempty"` // lines of /readyz?verbose, where the health port was asked
}

func (r *Report) problem(what string, err error) {
	if st, ok := grpcstatus.FromError(err); ok { // the words, without gRPC's own around them
		err = errors.New(st.Message())
	}
	r.Problems = append(r.Problems, what+": "+shown(err.Error()))
}

// maxShown bounds a text that whoever serves the socket made.
const maxShown = 4 << 10

// shown is such a text as a terminal may have it.
func shown(text string) string {
	if len(text) <= maxShown && utf8.ValidString(text) && strings.IndexFunc(text, unicode.IsControl) < 0 {
		return text
	}
	return cause.Quote(text)
}

// Ask makes the calls of an API server's start, each with its own time.
func Ask(ctx context.Context, q Question) *Report {
	r := &Report{Version: 1, Socket: q.Socket, Problems: []string{}}
	if q.Health != "" {
		r.askReadiness(ctx, q)
	}
	conn, err := daemon.Connect(q.Socket)
	if err != nil {
		r.problem("connecting", err)
		return r
	}
	defer func() { _ = conn.Close() }()
	each := &limited{conn, q.Timeout}
	for _, ask := range []func(context.Context, grpc.ClientConnInterface, Question) error{r.askStatus, r.askV2, r.askV1} {
		if err := ask(ctx, each, q); err != nil {
			break // nobody is there: the others would only say it again
		}
	}
	r.OK = len(r.Problems) == 0
	return r
}

// limited is a connection whose every call has its own time, as an API server's.
type limited struct {
	grpc.ClientConnInterface

	each time.Duration
}

// Invoke makes one call.
func (l *limited) Invoke(ctx context.Context, method string, in, out any, options ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, l.each)
	defer cancel()
	return l.ClientConnInterface.Invoke(ctx, method, in, out, options...)
}

// askStatus returns an error where the socket gives no answer at all.
func (r *Report) askStatus(ctx context.Context, conn grpc.ClientConnInterface, q Question) error {
	st, err := v2.NewKeyManagementServiceClient(conn).Status(ctx, &v2.StatusRequest{})
	if err != nil {
		r.problem("Status", err)
		if _, versionErr := v1beta1.NewKeyManagementServiceClient(conn).Version(ctx, &v1beta1.VersionRequest{Version: "v1beta1"}); versionErr != nil {
			return versionErr
		}
		return nil
	}
	r.Healthz, r.KeyID, r.V2Version = shown(st.GetHealthz()), shown(st.GetKeyId()), shown(st.GetVersion())
	r.KeyIDHash = metrics.KeyIDHash(st.GetKeyId())
	if r.Healthz != keyring.OK {
		r.Problems = append(r.Problems, "healthz: "+r.Healthz)
	}
	if want := q.ExpectKeyID; want != "" && want != r.KeyID && want != r.KeyIDHash && want != keyref.ParseState(r.KeyID).Key {
		r.Problems = append(r.Problems, fmt.Sprintf("key_id: want %q", want))
	}
	return nil
}

func (r *Report) askV2(ctx context.Context, conn grpc.ClientConnInterface, _ Question) error {
	client := v2.NewKeyManagementServiceClient(conn)
	seed := randomSeed()
	start := time.Now()
	sealed, err := client.Encrypt(ctx, &v2.EncryptRequest{Plaintext: seed, Uid: "status"})
	if err != nil {
		r.problem("v2 Encrypt", err)
		return nil
	}
	opened, err := client.Decrypt(ctx, &v2.DecryptRequest{
		Ciphertext: sealed.GetCiphertext(), KeyId: sealed.GetKeyId(), Annotations: sealed.GetAnnotations(), Uid: "status",
	})
	r.V2RoundTrip = time.Since(start).Seconds()
	r.compare("v2 Decrypt", opened.GetPlaintext(), seed, err)
	if r.KeyID != "" && shown(sealed.GetKeyId()) != r.KeyID {
		r.Problems = append(r.Problems, fmt.Sprintf("v2 Encrypt: answers key_id %s, which Status does not", cause.Quote(sealed.GetKeyId())))
	}
	return nil
}

func (r *Report) askV1(ctx context.Context, conn grpc.ClientConnInterface, _ Question) error {
	client := v1beta1.NewKeyManagementServiceClient(conn)
	version, err := client.Version(ctx, &v1beta1.VersionRequest{Version: "v1beta1"})
	if err != nil {
		r.problem("v1 Version", err)
		return nil
	}
	r.V1Version, r.V1Runtime = shown(version.GetVersion()), shown(version.GetRuntimeName()+" "+version.GetRuntimeVersion())
	seed := randomSeed()
	start := time.Now()
	sealed, err := client.Encrypt(ctx, &v1beta1.EncryptRequest{Version: "v1beta1", Plain: seed})
	if err != nil {
		r.problem("v1 Encrypt", err)
		return nil
	}
	opened, err := client.Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: sealed.GetCipher()})
	r.V1RoundTrip = time.Since(start).Seconds()
	r.compare("v1 Decrypt", opened.GetPlain(), seed, err)
	return nil
}

func (r *Report) compare(what string, got, want []byte, err error) {
	switch {
	case err != nil:
		r.problem(what, err)
	case !bytes.Equal(got, want):
		r.Problems = append(r.Problems, what+": what came back is not what went in")
	}
}

func randomSeed() []byte {
	seed := make([]byte, 32)
	_, _ = rand.Read(seed) // never fails, by its contract
	return seed
}
