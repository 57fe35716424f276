package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/roottest"
)

// powerless is how systemd's unit runs the program: root, without any capability.
func powerless(t *testing.T, exe string, env []string, args ...string) *program {
	t.Helper()
	p := command(t, env)
	p.cmd.Path, p.cmd.Err = exec.LookPath("setpriv")
	p.cmd.Args = append([]string{"setpriv", "--bounding-set=-all", "--inh-caps=-all", exe}, args...)
	p.start()
	return p
}

// A file that another user keeps for itself is named, and nothing is blamed that was
// asked in its place.
func TestFileThatMayNotBeReadIsNamed(t *testing.T) {
	roottest.Needs(t, "it acts as another user")
	const role = "AWS_ROLE_ARN=arn:aws:iam::111122223333:role/r"
	credential := kmstest.Credential()
	profile := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\nregion = us-west-2\n", credential.AccessKeyID, credential.SecretAccessKey)
	exe := forEveryone(t)
	s := kmstest.Start(t)
	arn := key(t, s)
	for name, c := range map[string]struct {
		text string   // of the file
		env  []string // {file} is it, {home} has it in .aws
		key  string   // "": the ARN
		want []string // in one line of the log
	}{
		"shared credentials":       {profile, []string{"AWS_SHARED_CREDENTIALS_FILE={file}"}, "", []string{"KMS0307", "let user 0, as whom this process runs, read"}},
		"shared configuration":     {profile, []string{"AWS_CONFIG_FILE={file}"}, "", []string{"KMS0307", "let user 0, as whom this process runs, read"}},
		"both, at the usual place": {profile, []string{"HOME={home}"}, "", []string{"KMS0307", "let user 0, as whom this process runs, read"}},
		"a profile of it":          {profile, []string{"AWS_CONFIG_FILE={file}", "AWS_PROFILE=default2"}, "", []string{"KMS0307"}},
		"the Region in it":         {profile, []string{"AWS_CONFIG_FILE={file}"}, "alias/K8sKMSKey", []string{"KMS0307"}},
		"over a container":         {profile, []string{"AWS_SHARED_CREDENTIALS_FILE={file}", "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:1/"}, "", []string{"KMS0307"}},
		"web identity token":       {"token", []string{"AWS_WEB_IDENTITY_TOKEN_FILE={file}", role}, "", []string{"KMS0310"}},
		"container's token":        {"token", []string{"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE={file}", "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:1/"}, "", []string{"KMS0310"}},
		"CA bundle":                {"", []string{"AWS_CA_BUNDLE={file}"}, "", []string{"KMS0307"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := anothers(t, c.text)
			env := []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:1", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null"}
			if strings.HasPrefix(c.env[0], "HOME=") {
				env = env[:1]
			}
			for _, pair := range c.env {
				env = append(env, strings.NewReplacer("{file}", file, "{home}", filepath.Dir(filepath.Dir(file))).Replace(pair))
			}
			args := []string{"--key=" + arn, "--kms-endpoint=" + s.URL, "--listen=" + socketIn(t), "--health-port=127.0.0.1:0"}
			if c.key != "" {
				args[0] = "--key=" + c.key
			}
			p := powerless(t, exe, env, args...)
			want := append(c.want, file, "permission denied") //nolint:gocritic // a new list
			until(t, fmt.Sprintf("a line with %q in\n%s", want, p.err), func() bool { return hasLine(p.err.String(), want) || !p.running() })
			if !hasLine(p.err.String(), want) {
				t.Fatalf("ended without a line with %q\n%s", want, p.err)
			}
			if c.text == profile && c.key == "" && !strings.Contains(name, "profile") {
				if err := os.Chmod(file, 0o644); err != nil {
					t.Fatal(err)
				}
				server := newAPIServer(t, strings.TrimPrefix(args[2], "--listen="))
				until(t, "it is found without a restart", func() bool { return server.roundTripV2(t.Context()) == nil })
			}
		})
	}
	t.Run("the file of --config", func(t *testing.T) {
		t.Parallel()
		file := anothers(t, "")
		p := powerless(t, exe, nil, "--config="+file)
		p.exits(2)
		for _, want := range []string{file, "user 0 may not read it", "let root read it"} {
			if !strings.Contains(p.err.String(), want) {
				t.Errorf("want %q in\n%s", want, p.err)
			}
		}
	})
}

// anothers makes a file that is somebody else's alone, in a directory that all may
// search.
func anothers(t *testing.T, text string) string {
	t.Helper()
	dir := filepath.Join(directory(t), ".aws")
	path := filepath.Join(dir, "credentials")
	for _, err := range []error{
		os.Chmod(filepath.Dir(dir), 0o755), os.Mkdir(dir, 0o755), os.WriteFile(path, []byte(text), 0o600), os.Chown(path, someUser, someUser),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// hasLine reports whether one line of a text has all the words.
func hasLine(text string, words []string) bool {
	for line := range strings.Lines(text) {
		missing := false
		for _, word := range words {
			missing = missing || !strings.Contains(line, word)
		}
		if !missing {
			return true
		}
	}
	return false
}
