package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	kms "k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

const (
	keyID  = "1234abcd-12ab-34cd-56ef-1234567890ab"
	keyARN = "arn:aws:kms:us-west-2:111122223333:key/" + keyID
)

// A pod is what a kubelet would be told, as far as it matters here.
type pod struct {
	name          string
	command, args []string
	uid           int
	dir           string // of the socket, uid's own
	socket        string
	fips          bool // with that program in place of the image's
}

func pods(port int) []pod {
	const dir, socket = "/var/run/kmsplugin", "/var/run/kmsplugin/socket.sock"
	// The static pod of the predecessor's README.
	command := []string{"/aws-encryption-provider", "-key=" + keyARN, "-region=us-west-2", "-listen=" + socket}
	return []pod{
		{name: "the predecessor's static pod", command: command, dir: dir, socket: socket},
		// HyperShift's control-plane-operator, buildKASContainerAWSKMS in
		// hostedcontrolplane/v2/kas/kms/aws.go, gives no command.
		{name: "HyperShift's args", dir: "/var/run", socket: "/var/run/awskmsactive.sock", args: []string{
			"--key=" + keyARN, "--region=us-west-2", "--listen=/var/run/awskmsactive.sock", fmt.Sprintf("--health-port=:%d", port),
		}},
		{name: "not root, in a directory of its own", command: command, uid: nonroot, dir: dir, socket: socket},
		{name: "FIPS 140-3", command: command, dir: dir, socket: socket, fips: true},
	}
}

// checkImageRuns unpacks the image for this machine and runs it as a container
// runtime would: its root directory is the image's, its user the pod's. Without
// root's rights both stay this process's own, and paths are changed to match.
func checkImageRuns(t *testing.T, layoutDir, fipsDir string) {
	t.Helper()
	emulator := kmstest.StartTLS(t)
	if _, err := emulator.CreateKey(kmstest.Region, kmsemulator.KeyOptions{KeyID: keyID}); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	for _, p := range pods(port) {
		t.Run(p.name, func(t *testing.T) {
			root := shortDir(t)
			entrypoint := unpackImage(t, layoutDir, root)
			if p.fips {
				replaceProgram(t, fipsDir, root)
			}
			// The only authority that vouches for the emulator stands in the image's
			// file: the calls succeed only where the program finds that.
			appendFile(t, filepath.Join(root, caFile), emulator.CAPEM)
			prepareSocketDir(t, root, p)
			env := append(withoutName(emulator.Env(), "AWS_CA_BUNDLE"), fmt.Sprintf("AWS_ENCRYPTION_PROVIDER_HEALTH_PORT=:%d", port))
			argv := append(p.command, p.args...)
			if len(p.command) == 0 {
				argv = append(entrypoint, p.args...)
			}
			start(t, root, p.uid, argv, env)
			roundTrip(t, filepath.Join(root, p.socket))
			healthy(t, port)
			ownedBy(t, filepath.Join(root, p.socket), p.uid)
		})
	}
}

// unpackImage unpacks the layer for this machine and returns the entry point.
func unpackImage(t *testing.T, layoutDir, root string) []string {
	t.Helper()
	top, err := layout.ImageIndexFromPath(layoutDir)
	if err != nil {
		t.Fatal(err)
	}
	outer, err := top.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	index, err := top.ImageIndex(outer.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range inner.Manifests {
		if d.Platform.Architecture != runtime.GOARCH {
			continue
		}
		image, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		layers, err := image.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%d layers, %v", len(layers), err)
		}
		content, err := layers[0].Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = content.Close() }()
		unpack(t, content, root)
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		return config.Config.Entrypoint
	}
	t.Fatalf("no image for %s", runtime.GOARCH)
	return nil
}

// replaceProgram puts the program of an unpacked archive into the image.
func replaceProgram(t *testing.T, archiveDir, root string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(archiveDir, "*", program))
	if err != nil || len(found) != 1 {
		t.Fatalf("the archive has programs %q, %v", found, err)
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, program), data, 0o755); err != nil {
		t.Fatal(err)
	}
}

// prepareSocketDir makes the directory as the kubelet does for a hostPath of
// type DirectoryOrCreate (0755, root's), or as the operator for another user.
func prepareSocketDir(t *testing.T, root string, p pod) {
	t.Helper()
	dir := filepath.Join(root, p.dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(dir, p.uid, p.uid); err != nil {
			t.Fatal(err)
		}
	}
}

// start runs the program until the test ends.
func start(t *testing.T, root string, uid int, argv, env []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = env
	if os.Getuid() == 0 {
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	} else {
		t.Logf("not root: %s runs as this process's user, in no root directory of its own", argv[0])
		cmd.Path = filepath.Join(root, argv[0])
		for i, a := range cmd.Args {
			cmd.Args[i] = strings.Replace(a, "=/var/run/", "="+root+"/var/run/", 1)
		}
		cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+filepath.Join(root, caFile))
	}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := cmd.Wait() // the test's context has ended, and so cmd.Cancel was called
		if t.Failed() || !cmd.ProcessState.Success() {
			t.Errorf("the program ended: %v, %s; its log:\n%s", err, cmd.ProcessState, log.Bytes())
		}
	})
}

// roundTrip does what an API server does: Status, Encrypt, Decrypt.
func roundTrip(t *testing.T, socket string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client := kms.NewKeyManagementServiceClient(conn)
	secret := []byte("a DEK seed of thirty-two bytes!!")
	wrapped, err := client.Encrypt(ctx, &kms.EncryptRequest{Plaintext: secret, Uid: "1"}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := client.Decrypt(ctx, &kms.DecryptRequest{Ciphertext: wrapped.Ciphertext, KeyId: wrapped.KeyId, Annotations: wrapped.Annotations, Uid: "2"})
	if err != nil || !bytes.Equal(plain.Plaintext, secret) || bytes.Contains(wrapped.Ciphertext, secret) {
		t.Fatalf("Decrypt returned %q, %v", plain.GetPlaintext(), err)
	}
	status, err := client.Status(ctx, &kms.StatusRequest{})
	if err != nil || status.Healthz != "ok" || status.KeyId != wrapped.KeyId || !strings.HasPrefix(status.KeyId, keyARN) {
		t.Errorf("Status is %v, %v", status, err)
	}
}

func healthy(t *testing.T, port int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/healthz", port), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("/healthz answers %s", resp.Status)
	}
}

func ownedBy(t *testing.T, path string, uid int) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		uid = os.Getuid()
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != uid {
		t.Errorf("the socket is of %+v, want uid %d", info.Sys(), uid)
	}
}

// shortDir is a directory whose path leaves room for a socket's name, and which
// others may enter.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func appendFile(t *testing.T, path string, data []byte) {
	t.Helper()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(before, data...), 0o644); err != nil {
		t.Fatal(err)
	}
}

func withoutName(env []string, name string) []string {
	return slices.DeleteFunc(env, func(pair string) bool { return strings.HasPrefix(pair, name+"=") })
}
