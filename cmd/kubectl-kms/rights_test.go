package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/cli"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// An operator is a user to whom nothing is allowed at first, of an API server that asks
// RBAC.
type operator struct {
	etcd  *etcdtest.Etcd
	api   *cluster.APIServer
	admin func(stdin string, args ...string) // runs kubectl
	where []string                           // flags that name the cluster, as this user
}

const operatorToken = "operators-token"

func startOperator(t *testing.T) *operator {
	t.Helper()
	s := kmstest.Start(t)
	s.SetEnv(t)
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(daemontest.Directory(t), "s")
	daemontest.Start(t, daemontest.Config(t, "--key="+key, "--listen="+socket, "--health-port=127.0.0.1:0"))
	o := &operator{etcd: etcdtest.Start(t, etcdtest.V37, cluster.EtcdOptions{})}
	o.api = newAPIServer(t, cluster.APIServerConfig{
		Dir: t.TempDir(), Etcd: o.etcd.URL, Encryption: configOf("secrets"), // in the clear, so that something is stale later
		Modes: "Node,RBAC", Users: map[string]string{operatorToken: "operator"},
	})
	if err := o.api.CreateSecret(t.Context(), "stale", planted); err != nil {
		t.Fatal(err)
	}
	if err := o.api.Stop(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := o.api.SetEncryption(configOf("secrets", strings.Replace(byV2, "/proc/self/cwd/s", socket, 1))); err != nil {
		t.Fatal(err)
	}
	if err := o.api.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, cluster.Kubeconfig(operatorToken, o.api), 0o600); err != nil {
		t.Fatal(err)
	}
	o.where = []string{"--kubeconfig", kubeconfig, "--apiserver", o.api.URL(), "--encryption-config", o.api.EncryptionFile}
	o.admin = kubectlOf(t, o.api)
	return o
}

// try runs a command as the operator, and demands its exit code and words.
func (o *operator) try(t *testing.T, code int, words, line string) {
	t.Helper()
	args := append(strings.Fields(line), o.where...)
	if args[0] != "status" || strings.Contains(line, "--probe") {
		args = append(args, "--endpoints", o.etcd.URL)
	}
	got, out, errs := command(t, args...)
	clean(t, out+errs)
	if got != code || !strings.Contains(out+errs, words) {
		t.Errorf("%s: exit code %d, want %d and %q\n%s%s", line, got, code, words, out, errs)
	}
}

// rightsOf are the manifests of docs/kubectl-kms.md, and the command that gives one away.
func rightsOf(t *testing.T) (manifests string, bind []string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/kubectl-kms.md")
	if err != nil {
		t.Fatal(err)
	}
	manifest := regexp.MustCompile("(?s)```yaml\n(apiVersion: rbac.*?)```").FindSubmatch(page)
	line := regexp.MustCompile(`(?m)^kubectl (create clusterrolebinding .*)$`).FindSubmatch(page)
	if manifest == nil || line == nil {
		t.Fatal("docs/kubectl-kms.md has no ClusterRoles, or no command that binds one")
	}
	return string(manifest[1]), strings.Fields(string(line[1]))
}

// The ClusterRoles of docs/kubectl-kms.md are enough for the commands that the page says
// they are for, under RBAC, and each command names what it lacks without them.
func TestClusterRolesOfTheDocsAreEnough(t *testing.T) {
	o := startOperator(t)
	manifests, bind := rightsOf(t)
	give := func(role string) {
		for _, word := range bind {
			if strings.Contains(word, "--clusterrole=kubectl-kms-status") {
				o.admin("", strings.Fields(strings.NewReplacer("kubectl-kms-status", role, "NAME", "operator").Replace(strings.Join(bind, " ")))...)
				return
			}
		}
		t.Fatalf("another command than expected: %s", bind)
	}
	const (
		only = "audit --resources secrets --expect-only provider:aws"
		next = "Let a ClusterRole allow it: docs/kubectl-kms.md has one that is enough"
	)

	// Without any.
	o.try(t, cli.Failed, "does not allow list on leases.coordination.k8s.io in kube-system", "status")
	o.try(t, cli.Failed, next, "status")
	o.try(t, cli.Failed, "does not allow list on leases.coordination.k8s.io in kube-system", "status --probe")
	o.try(t, cli.Failed, "does not allow list on leases.coordination.k8s.io in kube-system", "migrate")
	o.try(t, cli.Found, "does not allow list on leases.coordination.k8s.io in kube-system", only)
	code, out, errs := command(t, "verify", "--endpoints", o.etcd.URL, "--encryption-config", o.api.EncryptionFile)
	if code != cli.Done {
		t.Errorf("verify needs nothing: exit code %d\n%s%s", code, out, errs)
	}
	snapshot := filepath.Join(t.TempDir(), "backup.db")
	o.etcd.Snapshot(snapshot)
	asks(t, cli.Done, "verdict: yes", "--snapshot", snapshot, "--resources", "secrets", "--expect-only", "plaintext")

	o.admin(manifests, "create", "-f", "-")
	give("kubectl-kms-status")
	o.try(t, cli.Done, "verdict: converged", "status")
	o.try(t, cli.Found, "API servers: asked before and after, converged", only)
	o.try(t, cli.Failed, "does not allow get on namespace kube-system", "status --probe")

	give("kubectl-kms-probe")
	o.try(t, cli.Done, "verdict: converged", "status --probe")
	o.try(t, cli.Found, "this user may not patch secrets", "migrate")
	o.try(t, cli.Found, "this user may not list mutatingwebhookconfigurations and mutatingadmissionpolicies", "migrate")

	give("kubectl-kms-migrate")
	o.try(t, cli.Done, "nothing stale is left: 1 of 1 rewritten", "migrate")
	o.try(t, cli.Done, "nothing is stale", "migrate --probe")
	o.try(t, cli.Done, "verdict: yes", only)
}
