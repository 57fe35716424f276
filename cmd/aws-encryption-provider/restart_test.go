package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// poll asks for Status, once somebody serves the socket.
func poll(t *testing.T, path string) (*v2.StatusResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return v2.NewKeyManagementServiceClient(dial(t, path)).Status(ctx, &v2.StatusRequest{}, grpc.WaitForReady(true))
}

// A process that is killed in an outage of KMS and started again tells API servers
// what it told them before, where nothing but the process has changed.
func TestKilledInAnOutageItGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		then []string // arguments after the kill
		env  []string
		want string // "ok", "text" or "error"
	}{
		"within the grace":      {want: "ok"},
		"after the grace":       {then: []string{"--outage-grace=0s"}, want: "text"},
		"another configuration": {then: []string{"--encryption-context=a=b"}, want: "error"},
		"another Region":        {env: []string{"AWS_REGION=eu-central-1"}, want: "error"},
	} {
		for _, place := range []string{"beside the socket", "in the unit's runtime directory"} {
			t.Run(name+", "+place, func(t *testing.T) {
				t.Parallel()
				s := kmstest.Start(t)
				listen, runtimeDir := socketIn(t), directory(t)
				env, kept := s.Env(), filepath.Join(filepath.Dir(listen), ".s.state")
				if place != "beside the socket" {
					env, kept = append(env, "RUNTIME_DIRECTORY="+runtimeDir+":/nowhere"), filepath.Join(runtimeDir, "provider-0.state")
				}
				args := []string{"--key=" + key(t, s), "--listen=" + listen, "--health-port=127.0.0.1:0", "--kms-timeout=1s"}
				p := launch(t, env, args...)
				before, err := poll(t, listen)
				if err != nil || before.Healthz != "ok" {
					t.Fatalf("Status %v, %v, want ok", before, err)
				}
				if data, err := os.ReadFile(kept); err != nil || !strings.Contains(string(data), before.KeyId) {
					t.Fatalf("%s holds %q, %v, want the key_id that was told", kept, data, err)
				}
				p.signal(syscall.SIGKILL)
				<-p.ended
				s.StopServing()
				launch(t, append(env, c.env...), append(args, c.then...)...)
				after, err := poll(t, listen)
				got := "error"
				if err == nil {
					got = "text"
					if after.KeyId != before.KeyId {
						t.Errorf("key_id %q, before %q", after.KeyId, before.KeyId)
					}
					if after.Healthz == "ok" {
						got = "ok"
					}
				}
				if got != c.want {
					t.Errorf("Status is %v, %v, want %s", after, err, c.want)
				}
			})
		}
	}
}
