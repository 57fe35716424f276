package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// value returns what dev printed beside a word.
func value(t testing.TB, printed, word string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^  ` + word + ` +(.*)$`).FindStringSubmatch(printed)
	if m == nil {
		t.Fatalf("dev prints no %s:\n%s", word, printed)
	}
	return m[1]
}

func TestDevSaysWhatItSetUpAndThatWorks(t *testing.T) {
	tmp := directory(t)
	p := launch(t, []string{"TMPDIR=" + tmp}, "dev")
	printed := p.introduces()
	socket := value(t, printed, "socket")
	if want := "endpoint: unix://" + socket + "\n"; !strings.Contains(printed, want) {
		t.Errorf("no EncryptionConfiguration with %q:\n%s", want, printed)
	}
	arn := "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	if got := value(t, printed, "key"); got != arn {
		t.Errorf("key %s, want the guide's, %s", got, arn)
	}
	kms := value(t, printed, "KMS")
	if want := "aws kms describe-key --key-id alias/K8sKMSKey --region us-west-2 --endpoint-url " + kms + "\n"; !strings.Contains(printed, want) {
		t.Errorf("no line to try with %q:\n%s", want, printed)
	}
	if got := value(t, printed, "round trip"); !strings.HasPrefix(got, "32 bytes encrypted and decrypted over the socket in ") {
		t.Errorf("round trip: %s", got)
	}
	for url := range strings.SplitSeq(value(t, printed, "health"), ", ") {
		if code, body := fetch(t, url); code != http.StatusOK {
			t.Errorf("%s: %d %s, want 200", url, code, body)
		}
	}
	sealed := seal(t, socket, []byte("secret"))
	if !strings.HasPrefix(sealed.KeyId, arn+"?material=") {
		t.Errorf("key_id %s, want %s with its key material", sealed.KeyId, arn)
	}
	if got := open(t, socket, sealed); string(got) != "secret" {
		t.Errorf("what went in came back as %q", got)
	}
	if p.err.String() != "" {
		t.Errorf("a start without trouble logs:\n%s", p.err)
	}
	p.signal(os.Interrupt)
	p.exits(0)
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v (%v), want nothing", left, err)
	}
}

// ask makes a call of KMS, as an AWS client would, and returns what is answered. The
// signature is any: dev's KMS knows no credentials.
func ask(t *testing.T, url, operation string, in map[string]string) (code int, answer string) {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	for name, value := range map[string]string{
		"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "TrentService." + operation, "X-Amz-Date": now.Format("20060102T150405Z"),
		"Authorization": "AWS4-HMAC-SHA256 Credential=dev/" + now.Format("20060102") + "/us-west-2/kms/aws4_request, " +
			"SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature=" + strings.Repeat("0", 64),
	} {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// TestDevSaysWhatAliasIsThere: the first commands of the predecessor's README, which
// make a key and the alias, run against dev as against a KMS that has the alias.
func TestDevSaysWhatAliasIsThere(t *testing.T) {
	t.Parallel()
	dir := directory(t)
	const alias = "alias/K8sKMSKey"
	made := "" // by create-key
	for _, step := range []struct {
		said      string // of the alias; KEY is what was made
		operation string // then
		refused   string
	}{
		{
			alias + ", there already: skip create-alias, or give it another name", "CreateAlias",
			`{"__type":"AlreadyExistsException","message":"An alias with the name arn:aws:kms:us-west-2:111122223333:` + alias + ` already exists"}`,
		},
		{alias + ", there already: skip create-alias, or give it another name", "UpdateAlias", ""},
		{alias + ", there already, of KEY", "DeleteAlias", ""},
		{"none: " + alias + " was deleted", "CreateAlias", ""},
		{alias + ", there already, of KEY", "DescribeKey", ""},
	} {
		p := launch(t, nil, "dev", "--dir="+dir)
		printed := p.introduces()
		if got, want := value(t, printed, "alias"), strings.ReplaceAll(step.said, "KEY", made); got != want {
			t.Errorf("before %s it says %q, want %q", step.operation, got, want)
		}
		example := alias
		if strings.HasPrefix(step.said, "none") {
			example = value(t, printed, "key")
		}
		if want := "aws kms describe-key --key-id " + example + " "; !strings.Contains(printed, want) {
			t.Errorf("no line to try with %q:\n%s", want, printed)
		}
		url := value(t, printed, "KMS")
		if made == "" {
			_, answer := ask(t, url, "CreateKey", map[string]string{})
			var out struct{ KeyMetadata struct{ Arn string } }
			if err := json.Unmarshal([]byte(answer), &out); err != nil || out.KeyMetadata.Arn == "" {
				t.Fatalf("create-key: %v: %s", err, answer)
			}
			made = out.KeyMetadata.Arn
		}
		code, answer := ask(t, url, step.operation, map[string]string{"AliasName": alias, "TargetKeyId": made, "KeyId": made})
		if step.refused != "" && (code != http.StatusBadRequest || answer != step.refused) || step.refused == "" && code != http.StatusOK {
			t.Errorf("%s: %d %s, want %q", step.operation, code, answer, step.refused)
		}
		p.signal(os.Interrupt)
		p.exits(0)
	}
}

func TestDevKeepsItsKeysThroughSIGKILL(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(directory(t), "made", "by dev")
	listen := filepath.Join(dir, "socket.sock")
	p := launch(t, nil, "dev", "--dir="+dir)
	p.introduces()
	sealed := seal(t, listen, []byte("from before"))
	for range 2 {
		p.signal(syscall.SIGKILL)
		<-p.ended
		p = launch(t, nil, "dev", "-dir", dir)
		p.introduces()
		if got := open(t, listen, sealed); string(got) != "from before" {
			t.Errorf("what was sealed before comes back as %q", got)
		}
		if now := seal(t, listen, []byte("k")); now.KeyId != sealed.KeyId {
			t.Errorf("key_id is %s, was %s", now.KeyId, sealed.KeyId)
		}
	}
	p.signal(syscall.SIGTERM)
	p.exits(0)
	if !exists(dir) || exists(listen) {
		t.Errorf("at the end, directory there: %t, socket there: %t; want true, false", exists(dir), exists(listen))
	}
}

func TestDevTakesNothingFromTheUsersSettings(t *testing.T) {
	t.Parallel()
	p := launch(t, []string{
		"AWS_PROFILE=none", "AWS_RETRY_MODE=nonsense", "AWS_DEFAULTS_MODE=nonsense", "AWS_CA_BUNDLE=/nowhere", "AWS_CONFIG_FILE=/nowhere",
		"AWS_ENDPOINT_URL=http://127.0.0.1:1", "AWS_ENDPOINT_URL_KMS=http://127.0.0.1:1", "AWS_USE_FIPS_ENDPOINT=true",
		"AWS_ROLE_ARN=arn:aws:iam::111122223333:role/r", "AWS_WEB_IDENTITY_TOKEN_FILE=/nowhere", "AWS_SESSION_TOKEN=t", "AWS_REGION=eu-west-1",
		"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1", "AWS_ENCRYPTION_PROVIDER_KEY=alias/none",
	}, "dev", "--kms-listen=0.0.0.0:0", "--health-port=0.0.0.0:0")
	printed := p.introduces()
	for _, word := range []string{"KMS", "health"} {
		if got := value(t, printed, word); !strings.HasPrefix(got, "http://127.0.0.1:") {
			t.Errorf("%s at %s, want an address that a client can use", word, got)
		}
	}
	p.signal(os.Interrupt)
	p.exits(0)
}

func TestDevLeavesAnotherProcessItsSocket(t *testing.T) {
	t.Parallel()
	s := kmstest.Start(t)
	listen := socketIn(t)
	first := launch(t, s.Env(), "--key="+key(t, s), "--listen="+listen, "--health-port=127.0.0.1:0")
	first.logs(`"msg":"serving"`)
	tmp := directory(t)
	p := launch(t, []string{"TMPDIR=" + tmp}, "dev", "--listen="+listen)
	p.exits(1)
	if p.out.String() != "" {
		t.Errorf("it presents another process's socket as its own:\n%s", p.out)
	}
	if want := fmt.Sprintf("the process with pid %d serves it", first.cmd.Process.Pid); !strings.Contains(p.err.String(), want) {
		t.Errorf("its last words lack %q:\n%s", want, p.err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v (%v), want nothing", left, err)
	}
}

func TestDevEndsWhileItStillStarts(t *testing.T) {
	t.Parallel()
	s := kmstest.Start(t)
	listen := socketIn(t)
	launch(t, s.Env(), "--key="+key(t, s), "--listen="+listen, "--health-port=127.0.0.1:0").logs(`"msg":"serving"`)
	tmp := directory(t)
	p := launch(t, []string{"TMPDIR=" + tmp}, "dev", "--listen="+listen)
	p.logs("waiting for its holder to leave")
	p.signal(os.Interrupt)
	p.exits(0)
	if p.out.String() != "" {
		t.Errorf("prints\n%s\nwant nothing", p.out)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v (%v), want nothing", left, err)
	}
}

func TestDevsDirectoryIsForOneAtATime(t *testing.T) {
	t.Parallel()
	dir := directory(t)
	first := launch(t, nil, "dev", "--dir="+dir)
	first.introduces()
	second := launch(t, nil, "dev", "--dir="+dir)
	second.exits(1)
	if !strings.HasPrefix(second.err.String(), "aws-encryption-provider: starting the KMS emulator: ") {
		t.Errorf("its words:\n%s", second.err)
	}
	if got := open(t, filepath.Join(dir, "socket.sock"), seal(t, filepath.Join(dir, "socket.sock"), []byte("k"))); !bytes.Equal(got, []byte("k")) {
		t.Errorf("the first gives back %q", got)
	}
}

func TestDevServesAnAbstractSocket(t *testing.T) {
	t.Parallel()
	listen := fmt.Sprintf("@aep-dev-%d", os.Getpid())
	p := launch(t, nil, "dev", "--listen="+listen)
	p.introduces()
	conn, err := unixsocket.Connect(listen)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := v2.NewKeyManagementServiceClient(conn).Status(t.Context(), &v2.StatusRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Errorf("Status: %v", err)
	}
	p.signal(os.Interrupt)
	p.exits(0)
}
