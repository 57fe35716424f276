package e2e

import (
	"context"
	"net/http"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// TestStartsAmidAnOutage: a machine is started again while KMS cannot be
// reached. Before that, its v1 API server can write nothing and its v2 one goes
// on. After it, the API server answers and is not ready, and reads nothing that
// is encrypted. When KMS is back both recover, with nothing restarted.
func TestStartsAmidAnOutage(t *testing.T) {
	t.Parallel()
	for _, v := range versions() {
		t.Run(v.version, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			provider := cluster.Provider{Name: "aws-encryption-provider", Version: v.version, Socket: s.socket("socket.sock")}
			plugin := s.plugin(s.key(), provider.Socket)
			a := s.apiServer(false, provider)
			book := ledger{}
			s.write(a, book, "before", 10)
			s.readsAll(a, book)

			s.kms.Unlisten()
			s.readsAll(a, book) // from memory
			err := a.CreateSecret(t.Context(), "amid", value("amid"))
			switch {
			case v.version == "v1" && err == nil:
				t.Error("a v1 API server wrote a secret without KMS")
			case v.version == "v2" && err != nil:
				t.Errorf("a v2 API server that runs could not write: %v", err)
			case err == nil:
				book["amid"] = value("amid")
			}

			s.must(a.Kill())
			s.must(plugin.Kill())
			s.must(plugin.Program.Start())
			s.must(a.StartUnready(t.Context()))
			pluginPID, serverPID := plugin.PID(), a.PID()
			s.eventually(time.Minute, "the check names the outage", func(ctx context.Context) error {
				return expectCheck(ctx, a, v.check, http.StatusInternalServerError, "KMS0")
			})
			s.must(expectCheck(t.Context(), a, "/readyz", http.StatusInternalServerError))
			name := book.any()
			if got, err := a.Secret(t.Context(), name); err == nil {
				t.Errorf("secret %s reads %q without KMS after a cold start", name, got)
			}

			s.must(s.kms.Listen(t.Context()))
			s.must(plugin.WaitReady(t.Context(), time.Minute))
			s.must(a.WaitReady(t.Context(), 3*time.Minute))
			s.eventually(time.Minute, "the list of secrets is answered", func(ctx context.Context) error {
				_, err := a.Secrets(ctx) // before 1.34 /readyz does not wait for the watch cache: 429
				return err
			})
			s.readsAll(a, book)
			if plugin.PID() != pluginPID || a.PID() != serverPID || !plugin.Running() || !a.Running() {
				t.Errorf("plugin %d → %d, API server %d → %d: want none restarted", pluginPID, plugin.PID(), serverPID, a.PID())
			}
		})
	}
}
