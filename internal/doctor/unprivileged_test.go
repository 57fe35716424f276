package doctor_test

import (
	"cmp"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/roottest"
)

const nobody = 65534

// examineAs runs the doctor in a process of its own as another user.
func (n *node) examineAs(uid uint32) (printed []byte, err error) {
	n.t.Helper()
	exe, err := os.Executable()
	n.must(nil, err)
	binary, err := os.ReadFile(exe)
	n.must(nil, err)
	dir := n.t.TempDir() // Go's own directory lets nobody in
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		n.must(nil, os.Chmod(d, 0o755))
	}
	copied := filepath.Join(dir, "doctor")
	n.must(nil, os.WriteFile(copied, binary, 0o755))
	cmd := exec.CommandContext(n.t.Context(), copied)
	cmd.Env = append(os.Environ(), asDoctor+"="+strings.Join(n.args(), "\n"), "HOME="+cmp.Or(n.home, dir))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd.CombinedOutput()
}

func TestWhoMayNotLookIsToldSoAndThePluginIsNotBlamed(t *testing.T) {
	roottest.Needs(t, "it acts as another user")
	for name, c := range map[string]struct {
		plant func(n *node)
		codes []string
		says  string
	}{
		"a socket of root's": {func(n *node) {
			n.run()
			n.must(nil, os.Chmod(n.dir, 0o755))
		}, []string{"KMS0730"}, "may not be asked"},
		"a socket in a directory of root's": {func(n *node) { n.run() }, []string{"KMS0730"}, "cannot be looked at"},
		"a directory where the plugin is to make its socket": {func(n *node) {
			n.must(nil, os.Chmod(n.dir, 0o755))
		}, []string{"KMS0730"}, "user 65534 may not write to"},
		"a directory of root's, and nothing runs": {func(*node) {}, []string{"KMS0730"}, "permission denied"},
		"a dead socket in a directory of root's": {func(n *node) {
			n.must(nil, os.Chmod(n.dir, 0o755))
			n.must(nil, syscall.Mknod(n.socket, syscall.S_IFSOCK|0o666, 0))
			n.must(nil, os.Chmod(n.socket, 0o666))
		}, []string{"KMS0730"}, "user 65534 may not write to"},
		"users that are let in by name": {func(n *node) {
			n.flags = []string{"--allow-uid=0", "--socket-mode=0666"}
			n.run()
			n.must(nil, os.Chmod(n.dir, 0o755))
		}, []string{"KMS0730"}, "lets users [0] in, and doctor runs as 65534"},
		"a token that only root reads": {func(n *node) {
			n.must(nil, os.Chown(n.dir, nobody, nobody))
			n.withoutKeys()
			n.t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/kms")
			n.t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", n.write("token", "a token"))
		}, []string{"KMS0730"}, "the credentials cannot be read"},
		"shared credentials that only root reads": {func(n *node) {
			n.must(nil, os.Chown(n.dir, nobody, nobody))
			n.withoutKeys()
			n.t.Setenv("AWS_SHARED_CREDENTIALS_FILE", n.write("credentials", "[default]\n"))
		}, []string{"KMS0730"}, "/credentials: permission denied"},
		"shared credentials that only root reads, and a hop limit": {func(n *node) {
			n.must(nil, os.Chown(n.dir, nobody, nobody))
			n.withoutKeys()
			n.silentMetadata()
			n.t.Setenv("AWS_SHARED_CREDENTIALS_FILE", n.write("credentials", "[default]\n"))
		}, []string{"KMS0730"}, "the credentials cannot be read"},
		"shared configuration that only root reads": {func(n *node) {
			n.must(nil, os.Chown(n.dir, nobody, nobody))
			n.withoutKeys()
			n.t.Setenv("AWS_CONFIG_FILE", n.write("config", "[default]\n"))
		}, []string{"KMS0730"}, "/config: permission denied"},
		"a profile in a file that only root reads": {func(n *node) {
			n.must(nil, os.Chown(n.dir, nobody, nobody))
			n.withoutKeys()
			n.t.Setenv("AWS_PROFILE", "kms")
			n.t.Setenv("AWS_CONFIG_FILE", n.write("config", "[profile kms]\n"))
		}, []string{"KMS0730"}, "/config: permission denied"},
		"a CA bundle that only root reads": {func(n *node) {
			n.must(nil, os.Chown(n.dir, nobody, nobody))
			n.t.Setenv("AWS_CA_BUNDLE", n.write("bundle", ""))
		}, []string{"KMS0730"}, "bundle: permission denied"},
		"a container's token that only root reads": {func(n *node) {
			n.must(nil, os.Chown(n.dir, nobody, nobody))
			n.withoutKeys()
			n.t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", n.write("container-token", "a token"))
			n.t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/")
		}, []string{"KMS0730"}, `/container-token\", \"permission denied\"`},
		"shared credentials that only root reads, and a role of the instance": {func(n *node) {
			n.must(nil, os.Chown(n.dir, nobody, nobody))
			n.withoutKeys()
			n.t.Setenv("AWS_EC2_METADATA_DISABLED", "")
			n.t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", n.kms.StartIMDS(n.t))
			n.t.Setenv("AWS_SHARED_CREDENTIALS_FILE", n.write("credentials", "[default]\n"))
		}, []string{"KMS0730"}, "/credentials cannot be read"},
		"shared credentials in root's home, which nobody has named": {func(n *node) {
			n.must(nil, os.Chown(n.dir, nobody, nobody))
			n.withoutKeys()
			n.t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "")
			n.t.Setenv("AWS_CONFIG_FILE", "")
			n.home = filepath.Join(n.dir, "home", "unseen")
			n.must(nil, os.Mkdir(filepath.Dir(n.home), 0o700))
		}, []string{"KMS0301"}, "is free"},
		"shared credentials that only root reads, and other credentials": {func(n *node) {
			n.must(nil, os.Chown(n.dir, nobody, nobody))
			n.t.Setenv("AWS_SHARED_CREDENTIALS_FILE", n.write("credentials", "[default]\n"))
		}, nil, "is free"},
		"all is well, and the socket is for everybody": {func(n *node) {
			n.flags = []string{"--socket-mode=0666"}
			n.run()
			n.must(nil, os.Chmod(n.dir, 0o755))
		}, nil, "is well: arn:aws:kms:"},
		"all is well, and the directory is this user's": {func(n *node) {
			n.must(nil, os.Chown(n.dir, nobody, nobody))
		}, nil, "is free"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, kmstest.Start(t))
			c.plant(n)
			printed, err := n.examineAs(nobody)
			var r doctor.Report
			if jsonErr := json.Unmarshal(printed, &r); err != nil || jsonErr != nil {
				t.Fatalf("%v, %v: %s", err, jsonErr, printed)
			}
			codes, said := findings(&r)
			if !slices.Equal(codes, c.codes) || !strings.Contains(string(printed), c.says) {
				t.Errorf("finds %q, want %q and %q:\n%s", codes, c.codes, c.says, text(t, &r))
			}
			if slices.Equal(c.codes, []string{"KMS0730"}) && !strings.Contains(said, "run doctor as root") {
				t.Errorf("does not say what to do:\n%s", said)
			}
		})
	}
}

func TestConfigurationThatOnlyRootReadsIsSaid(t *testing.T) {
	roottest.Needs(t, "it acts as another user")
	n := newNode(t, kmstest.Start(t))
	n.keysFile(n.key)
	n.must(nil, os.Chmod(n.dir, 0o755))
	printed, err := n.examineAs(nobody)
	if err == nil || !strings.Contains(string(printed), "user 65534 may not read it: run this as root, or as the user that the file is for") {
		t.Errorf("%v: %s", err, printed)
	}
}
