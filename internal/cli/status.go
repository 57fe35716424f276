package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	grpcstatus "google.golang.org/grpc/status"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
)

type statusFlags struct {
	socket, output, expectKeyID string
	timeout                     time.Duration
}

func newStatus(s Streams) *cobra.Command {
	var f statusFlags
	set := pflag.NewFlagSet("status", pflag.ContinueOnError)
	set.SortFlags = false
	set.StringVar(&f.socket, "socket", config.DefaultSocket, "unix `SOCKET` of the plugin: a path, or @name for an abstract one")
	set.StringVarP(&f.output, "output", "o", "text", "`FORM` of the output: text or json")
	set.StringVar(&f.expectKeyID, "expect-key-id", "", "`KEY_ID` that the plugin has to answer: as it is, as sha256:HEX, or the key's ARN alone")
	set.DurationVar(&f.timeout, "timeout", 3*time.Second, "`TIME` that each call may take, as in an EncryptionConfiguration")
	cmd := &cobra.Command{Use: "status [--socket S]", Short: "ask a running one over its socket"}
	cmd.Flags().AddFlagSet(set)
	help := func() {
		fmt.Fprintf(s.Out, `Asks a running plugin over its socket, as an API server does: Status, and a round
trip of each API. Runs as whoever may open the socket, and changes nothing.

Usage:
  %s status [flags]

Exit codes: 0 all is well, 2 wrong usage, 3 something is not.

Flags:
%s`, programName, set.FlagUsages())
	}
	return parsed(cmd, help, func(ctx context.Context, args []string) error {
		if err := config.ParseArgs(set, args); err != nil {
			return err
		}
		if f.output != "text" && f.output != "json" {
			return config.Mistakes{{Field: "--output", Text: fmt.Sprintf("%.64q is neither text nor json", f.output)}}
		}
		if f.timeout <= 0 {
			return config.Mistakes{{Field: "--timeout", Text: "must be longer than 0"}}
		}
		f.socket = config.SocketPath(f.socket)
		ctx, stop := untilSignal(ctx, s)
		defer stop()
		r := askPlugin(ctx, f)
		if err := r.print(s, f.output); err != nil {
			return fmt.Errorf("printing the result: %w", err)
		}
		if len(r.Problems) > 0 {
			return errFound
		}
		return nil
	})
}

// untilSignal returns a context that the first signal ends.
func untilSignal(ctx context.Context, s Streams) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancel(ctx)
	go func() { // ends with the context
		select {
		case <-s.Signals:
			stop()
		case <-ctx.Done():
		}
	}()
	return ctx, stop
}

// errFound ends a command that did its work and found something: it has said so.
var errFound = errors.New("found problems")

// A statusReport is what a plugin answered. Its JSON form is version 1: fields
// are added and never change their meaning.
type statusReport struct {
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
}

func (r *statusReport) problem(what string, err error) {
	if st, ok := grpcstatus.FromError(err); ok { // the words, without gRPC's own around them
		err = errors.New(st.Message())
	}
	r.Problems = append(r.Problems, what+": "+err.Error())
}

// askPlugin makes the calls of an API server's start, each with its own time.
func askPlugin(ctx context.Context, f statusFlags) *statusReport {
	r := &statusReport{Version: 1, Socket: f.socket, Problems: []string{}}
	conn, err := daemon.Connect(f.socket)
	if err != nil {
		r.problem("connecting", err)
		return r
	}
	defer func() { _ = conn.Close() }()
	each := &limited{conn, f.timeout}
	for _, ask := range []func(context.Context, grpc.ClientConnInterface, statusFlags) error{r.askStatus, r.askV2, r.askV1} {
		if err := ask(ctx, each, f); err != nil {
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
func (r *statusReport) askStatus(ctx context.Context, conn grpc.ClientConnInterface, f statusFlags) error {
	st, err := v2.NewKeyManagementServiceClient(conn).Status(ctx, &v2.StatusRequest{})
	if err != nil {
		r.problem("Status", err)
		if _, versionErr := v1beta1.NewKeyManagementServiceClient(conn).Version(ctx, &v1beta1.VersionRequest{Version: "v1beta1"}); versionErr != nil {
			return versionErr
		}
		return nil
	}
	r.Healthz, r.KeyID, r.V2Version = st.GetHealthz(), st.GetKeyId(), st.GetVersion()
	r.KeyIDHash = metrics.KeyIDHash(r.KeyID)
	if r.Healthz != keyring.OK {
		r.Problems = append(r.Problems, "healthz: "+r.Healthz)
	}
	if want := f.expectKeyID; want != "" && want != r.KeyID && want != r.KeyIDHash && want != keyref.ParseState(r.KeyID).Key {
		r.Problems = append(r.Problems, fmt.Sprintf("key_id: want %q", want))
	}
	return nil
}

func (r *statusReport) askV2(ctx context.Context, conn grpc.ClientConnInterface, _ statusFlags) error {
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
	if r.KeyID != "" && sealed.GetKeyId() != r.KeyID {
		r.Problems = append(r.Problems, fmt.Sprintf("v2 Encrypt: answers key_id %q, which Status does not", sealed.GetKeyId()))
	}
	return nil
}

func (r *statusReport) askV1(ctx context.Context, conn grpc.ClientConnInterface, _ statusFlags) error {
	client := v1beta1.NewKeyManagementServiceClient(conn)
	version, err := client.Version(ctx, &v1beta1.VersionRequest{Version: "v1beta1"})
	if err != nil {
		r.problem("v1 Version", err)
		return nil
	}
	r.V1Version, r.V1Runtime = version.GetVersion(), version.GetRuntimeName()+" "+version.GetRuntimeVersion()
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

func (r *statusReport) compare(what string, got, want []byte, err error) {
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

func (r *statusReport) print(s Streams, form string) error {
	if form == "json" {
		encoder := json.NewEncoder(s.Out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(r)
	}
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(s.Out, "%-13s %s\n", name, value)
		}
	}
	trip := func(version string, seconds float64) string {
		if seconds == 0 {
			return version
		}
		return fmt.Sprintf("%s, round trip in %s", version, time.Duration(seconds*float64(time.Second)).Round(10*time.Microsecond))
	}
	line("socket", r.Socket)
	line("healthz", r.Healthz)
	line("key_id", r.KeyID)
	line("key_id hash", r.KeyIDHash)
	line("v2", trip(r.V2Version, r.V2RoundTrip))
	line("v1", trip(r.V1Version, r.V1RoundTrip))
	line("runtime", r.V1Runtime)
	for _, p := range r.Problems {
		line("problem", p)
	}
	if r.OK {
		line("result", "ok")
	}
	return nil
}
