package doctor_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/roottest"
)

const theUnit = "aws-encryption-provider.service"

// unit gives the node the package's unit, with a drop-in of these lines. Where systemd
// runs on this machine it is not asked.
func (n *node) unit(dropIn string) {
	n.t.Helper()
	n.systemctl("exit 1")
	dir := n.t.TempDir()
	n.t.Setenv("SYSTEMD_UNIT_PATH", dir)
	text, err := os.ReadFile(filepath.Join("../../deploy/systemd", theUnit))
	n.must(nil, err)
	n.must(nil, os.WriteFile(filepath.Join(dir, theUnit), text, 0o600))
	n.must(nil, os.Mkdir(filepath.Join(dir, theUnit+".d"), 0o700))
	n.must(nil, os.WriteFile(filepath.Join(dir, theUnit+".d", "10-configuration.conf"), []byte("[Service]\n"+dropIn+"\n"), 0o600))
}

// systemctl puts a script in the place of systemd's command.
func (n *node) systemctl(script string) {
	n.t.Helper()
	dir := n.t.TempDir()
	n.must(nil, os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	n.t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// The unit's root has no capabilities: it reads its own files and those of everybody.
func TestFileThatTheUnitMayNotReadIsNamed(t *testing.T) {
	roottest.Needs(t, "it acts as another user")
	const command = "systemd-run --wait --pipe --collect -p CapabilityBoundingSet= -p NoNewPrivileges=yes -p ProtectHome=read-only -p ProtectSystem=strict -p PrivateTmp=yes "
	for name, c := range map[string]struct {
		plant func(n *node, file string)
		codes []string
		says  []string // {file} is filled in
	}{
		"another user's, of the unit": {func(n *node, file string) {
			n.unit(`Environment=AWS_SHARED_CREDENTIALS_FILE=` + file + ` "AWS_SECRET_ACCESS_KEY=c2VjcmV0"`)
		}, []string{"KMS0734"}, []string{
			"× " + theUnit + " cannot read {file}\n", "(AWS_SHARED_CREDENTIALS_FILE of the unit, as user 0: permission denied)", "chown 0 {file},",
			command + "-E AWS_SHARED_CREDENTIALS_FILE={file} aws-encryption-provider doctor --config=/etc/aws-encryption-provider/config.yaml",
		}},
		"another user's, of doctor's environment": {func(n *node, file string) {
			n.unit("")
			n.t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
		}, []string{"KMS0734"}, []string{"‼ " + theUnit + " cannot read {file}\n", "(AWS_SHARED_CREDENTIALS_FILE, as user 0: permission denied)"}},
		"another user's, and the unit is that user's": {func(n *node, file string) {
			n.unit("User=nobody\nEnvironment=AWS_SHARED_CREDENTIALS_FILE=" + file)
		}, nil, nil},
		"another user's, and the unit has all capabilities": {func(n *node, file string) {
			n.unit("CapabilityBoundingSet=~CAP_SYS_ADMIN\nEnvironment=AWS_SHARED_CREDENTIALS_FILE=" + file)
		}, nil, nil},
		"root's": {func(n *node, file string) {
			n.must(nil, os.Chown(file, 0, 0))
			n.unit("Environment=AWS_SHARED_CREDENTIALS_FILE=" + file)
		}, nil, nil},
		"no unit": {func(n *node, file string) {
			n.systemctl("exit 1")
			n.t.Setenv("SYSTEMD_UNIT_PATH", n.t.TempDir())
			n.t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
		}, nil, nil},
		"as systemd says": {func(n *node, file string) {
			n.systemctl(`case "$*" in "show ` + theUnit + ` "*) ;; *) exit 1 ;; esac
echo LoadState=loaded
echo CapabilityBoundingSet=
echo User=
echo PrivateTmp=no
echo 'Environment=AWS_SHARED_CREDENTIALS_FILE=` + file + ` "A=b c"'
echo 'EnvironmentFiles=/etc/default/kms (ignore_errors=yes)'`)
		}, []string{"KMS0734"}, []string{
			"systemd-run --wait --pipe --collect -p CapabilityBoundingSet= -p EnvironmentFile=-/etc/default/kms -E AWS_SHARED_CREDENTIALS_FILE={file} aws-encryption-provider doctor ",
		}},
		"a unit that is masked": {func(n *node, file string) {
			n.unit("")
			masked := n.t.TempDir()
			n.must(nil, os.Symlink("/dev/null", filepath.Join(masked, theUnit)))
			n.t.Setenv("SYSTEMD_UNIT_PATH", masked+":"+os.Getenv("SYSTEMD_UNIT_PATH"))
			n.t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
		}, nil, nil},
		"a unit that systemd does not know": {func(n *node, file string) {
			n.unit("")
			n.systemctl("echo LoadState=not-found")
			n.t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
		}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, kmstest.Start(t))
			n.open()
			file := n.write("credentials", "[default]\n")
			n.must(nil, os.Chown(file, nobody, nobody))
			c.plant(n, file)
			for i, want := range c.says {
				c.says[i] = strings.ReplaceAll(want, "{file}", file)
			}
			n.finds(c.codes, c.says)
			leaksNothing(t, n, n.examine())
		})
	}
}

// Whoever may not read the credentials is told how to look as the unit does.
func TestConfigurationFileOfAnotherUserIsNamedForTheUnit(t *testing.T) {
	roottest.Needs(t, "it acts as another user")
	n := newNode(t, kmstest.Start(t))
	n.open()
	n.keysFile(n.key)
	n.must(nil, os.Chown(n.file, nobody, nobody))
	n.unit("")
	n.finds([]string{"KMS0734"}, []string{"(--config, as user 0: permission denied)", "aws-encryption-provider doctor --config=" + n.file})
}
