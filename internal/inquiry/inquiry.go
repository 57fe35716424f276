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
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// A Question is whom to ask, and what to expect.
type Question struct {
	Socket      string        // a path, or @name for an abstract one
	ExpectKeyID string        // as it is, as sha256:HEX, or the key's ARN alone; "": any
	Health      string        // address of the health port, which tells of each key; "": it is not asked
	Timeout     time.Duration // of each call
}

// A Report is what a plugin answered. Its JSON form is version 2: fields
// are added and never change their meaning. What was not measured is null there.
type Report struct {
	Version     int
	Socket      string
	OK          bool
	Problems    []string  // each answer that is not as it should be
	Findings    []Finding // each cause of those once
	Healthz     string
	KeyID       string
	KeyIDHash   string // as kube-apiserver's metrics show it
	V1Version   string
	V1Runtime   string
	V2Version   string
	V1RoundTrip float64 // seconds; 0: none succeeded
	V2RoundTrip float64
	Grace       *Grace   // nil: Status gave no answer
	Readyz      []string // lines of /readyz?verbose, where the health port was asked

	gaveStatus, gaveV1 bool // it answered
	refusedStatus      bool // it answered with an error of its own
	failing, refused   bool // calls fail by KMS, or by the key's owner
}

// MarshalJSON writes the documented form.
func (r *Report) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Version     int       `json:"version"`
		Socket      string    `json:"socket"`
		OK          bool      `json:"ok"`
		Problems    []string  `json:"problems"`
		Findings    []Finding `json:"findings"`
		Healthz     *string   `json:"healthz"`
		KeyID       *string   `json:"keyID"`
		KeyIDHash   *string   `json:"keyIDHash"`
		V1Version   *string   `json:"v1Version"`
		V1Runtime   *string   `json:"v1Runtime"`
		V2Version   *string   `json:"v2Version"`
		V1RoundTrip *float64  `json:"v1RoundTripSeconds"`
		V2RoundTrip *float64  `json:"v2RoundTripSeconds"`
		Grace       *Grace    `json:"grace"`
		Readyz      []string  `json:"readyz"`
	}{
		r.Version, r.Socket, r.OK, r.Problems, r.Findings,
		measured(r.Healthz, r.gaveStatus), measured(r.KeyID, r.gaveStatus), measured(r.KeyIDHash, r.gaveStatus),
		measured(r.V1Version, r.gaveV1), measured(r.V1Runtime, r.gaveV1), measured(r.V2Version, r.gaveStatus),
		measured(r.V1RoundTrip, r.V1RoundTrip > 0), measured(r.V2RoundTrip, r.V2RoundTrip > 0),
		r.Grace, r.Readyz,
	})
}

func measured[T any](value T, was bool) *T {
	if !was {
		return nil
	}
	return &value
}

// failed adds a call that ended with an error.
func (r *Report) failed(what string, err error) {
	st, ok := grpcstatus.FromError(err)
	if !ok {
		r.told(what+": "+shown(err.Error()), shown(err.Error()))
		return
	}
	text := shown(st.Message()) // the words, without gRPC's own around them
	f, ours := findingIn(text)
	switch {
	case ours:
		r.weigh(f.Code)
		r.told(what+": "+text, text)
	case st.Code() == codes.DeadlineExceeded:
		r.found(Silent, what+": no answer in time", what+": no answer in time", "")
	case st.Code() == codes.Canceled:
		r.found(Silent, what+": the call was broken off here", what+": the call was broken off here", "ask again")
	case st.Code() == codes.Unavailable:
		r.found(TurnedAway, what+": the connection was closed", fmt.Sprintf("this is user %d", os.Geteuid()), "")
	default:
		r.found(Silent, what+": "+text, what+": "+st.Code().String()+", "+text, "")
	}
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
	r := &Report{Version: 2, Socket: q.Socket, Problems: []string{}, Findings: []Finding{}}
	if q.Health != "" {
		r.askReadiness(ctx, q)
	}
	if r.reach(ctx, q.Timeout) {
		r.call(ctx, q)
	}
	r.Grace = r.grace()
	r.OK = len(r.Problems) == 0
	return r
}

// AskAs asks for Status over connections that dial makes, as whoever it makes them, and
// returns what is wrong: nil where the plugin answers, be it with a problem of its own.
// The error of dial is the kernel's to say, and is left to the caller.
func AskAs(ctx context.Context, timeout time.Duration, dial func(context.Context) (net.Conn, error)) *Finding {
	conn, err := unixsocket.ConnectBy(dial)
	r := &Report{}
	if err == nil {
		defer func() { _ = conn.Close() }()
		_, err = v2.NewKeyManagementServiceClient(&limited{conn, timeout}).Status(ctx, &v2.StatusRequest{})
	}
	if err == nil {
		return nil
	}
	r.failed("Status", err)
	if _, its := findingIn(grpcstatus.Convert(err).Message()); its {
		return nil
	}
	return &r.Findings[0]
}

// call makes the calls, over one connection.
func (r *Report) call(ctx context.Context, q Question) {
	conn, err := unixsocket.Connect(q.Socket)
	if err != nil {
		r.found(PathUnusable, "connecting: "+shown(err.Error()), shown(err.Error()), "")
		return
	}
	defer func() { _ = conn.Close() }()
	each := &limited{conn, q.Timeout}
	for _, ask := range []func(context.Context, grpc.ClientConnInterface, Question) error{r.askStatus, r.askV2, r.askV1} {
		if err := ask(ctx, each, q); err != nil {
			return // nobody is there: the others would only say it again
		}
	}
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
		r.failed("Status", err)
		_, r.refusedStatus = findingIn(grpcstatus.Convert(err).Message())
		if _, versionErr := v1beta1.NewKeyManagementServiceClient(conn).Version(ctx, &v1beta1.VersionRequest{Version: "v1beta1"}); versionErr != nil {
			return versionErr
		}
		return nil
	}
	r.Healthz, r.KeyID, r.V2Version = shown(st.GetHealthz()), shown(st.GetKeyId()), shown(st.GetVersion())
	r.KeyIDHash, r.gaveStatus = metrics.KeyIDHash(st.GetKeyId()), true
	if r.Healthz != provider.OK {
		r.told("healthz: "+r.Healthz, r.Healthz)
	}
	if want := q.ExpectKeyID; want != "" && want != r.KeyID && want != r.KeyIDHash && keyref.ARN(want).ID() != keyref.ParseState(r.KeyID).Key {
		r.found(OtherKey, fmt.Sprintf("key_id: want %q", want), fmt.Sprintf("want %q", want), "")
	}
	return nil
}

func (r *Report) askV2(ctx context.Context, conn grpc.ClientConnInterface, _ Question) error {
	client := v2.NewKeyManagementServiceClient(conn)
	seed := randomSeed()
	start := time.Now()
	sealed, err := client.Encrypt(ctx, &v2.EncryptRequest{Plaintext: seed, Uid: "status"})
	if err != nil {
		r.failed("v2 Encrypt", err)
		return nil
	}
	opened, err := client.Decrypt(ctx, &v2.DecryptRequest{
		Ciphertext: sealed.GetCiphertext(), KeyId: sealed.GetKeyId(), Annotations: sealed.GetAnnotations(), Uid: "status",
	})
	took := time.Since(start)
	if r.compare("v2 Decrypt", opened.GetPlaintext(), seed, err) {
		r.V2RoundTrip = took.Seconds()
	}
	if r.KeyID != "" && shown(sealed.GetKeyId()) != r.KeyID {
		other := cause.Quote(sealed.GetKeyId())
		r.found(KeyIDsDiffer, "v2 Encrypt: answers key_id "+other+", which Status does not", other, "")
	}
	return nil
}

func (r *Report) askV1(ctx context.Context, conn grpc.ClientConnInterface, _ Question) error {
	client := v1beta1.NewKeyManagementServiceClient(conn)
	version, err := client.Version(ctx, &v1beta1.VersionRequest{Version: "v1beta1"})
	if err != nil {
		r.failed("v1 Version", err)
		return nil
	}
	r.V1Version, r.V1Runtime = shown(version.GetVersion()), shown(version.GetRuntimeName()+" "+version.GetRuntimeVersion())
	r.gaveV1 = true
	seed := randomSeed()
	start := time.Now()
	sealed, err := client.Encrypt(ctx, &v1beta1.EncryptRequest{Version: "v1beta1", Plain: seed})
	if err != nil {
		r.failed("v1 Encrypt", err)
		return nil
	}
	opened, err := client.Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: sealed.GetCipher()})
	took := time.Since(start)
	if r.compare("v1 Decrypt", opened.GetPlain(), seed, err) {
		r.V1RoundTrip = took.Seconds()
	}
	return nil
}

// compare reports whether a round trip ended as it began.
func (r *Report) compare(what string, got, want []byte, err error) bool {
	switch {
	case err != nil:
		r.failed(what, err)
	case !bytes.Equal(got, want):
		r.found(RoundTrip, what+": what came back is not what went in", what, "")
	default:
		return true
	}
	return false
}

func randomSeed() []byte {
	seed := make([]byte, 32)
	_, _ = rand.Read(seed) // never fails, by its contract
	return seed
}
