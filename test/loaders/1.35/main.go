// Command 1.33 and its siblings, one for each minor version of Kubernetes, give
// every file of a folder to kube-apiserver's own loader of EncryptionConfigurations
// and print what it says, a line of JSON for each file and value of reload. The
// siblings differ in their go.mod only: a test compares the texts.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/klog/v2"
	"k8s.io/kms/pkg/service"
)

// A verdict is what kube-apiserver says of a file. Reload is its flag
// --encryption-provider-config-automatic-reload.
type verdict struct {
	File   string `json:"file"`
	Reload bool   `json:"reload"`
	Error  string `json:"error,omitempty"` // "": accepted
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: loader FOLDER")
		os.Exit(2)
	}
	if err := run(context.Background(), os.Args[1], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, folder string, out io.Writer) error {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // it would tell of each plugin that is not there
	if err := utilfeature.DefaultMutableFeatureGate.Set("KMSv1=true"); err != nil {
		return err
	}
	encryptionconfig.EnvelopeKMSv2ServiceFactory = connect
	files, err := os.ReadDir(folder) // sorted by name
	if err != nil {
		return err
	}
	lines := json.NewEncoder(out)
	for _, file := range files {
		for _, reload := range []bool{false, true} {
			v := verdict{File: file.Name(), Reload: reload, Error: load(ctx, filepath.Join(folder, file.Name()), reload)}
			if err := lines.Encode(v); err != nil {
				return err
			}
		}
	}
	return nil
}

// load returns the loader's error, and "" where it has none.
func load(ctx context.Context, file string, reload bool) (text string) {
	ctx, cancel := context.WithCancel(ctx) // ends what the loader leaves running
	defer cancel()
	defer func() {
		if reason := recover(); reason != nil { // the API server would not start either
			text = fmt.Sprint("panic: ", reason)
		}
	}()
	if _, err := encryptionconfig.LoadEncryptionConfig(ctx, file, reload, "test"); err != nil {
		return err.Error()
	}
	return ""
}

// connect refuses the endpoints that kube-apiserver's own factory refuses, and
// answers in place of all others: the loader would wait for a plugin that is not
// there as long as the entry's timeout says.
func connect(ctx context.Context, endpoint, name string, timeout time.Duration) (service.Service, error) {
	if _, err := kmsv2.NewGRPCService(ctx, endpoint, name, timeout); err != nil {
		return nil, err
	}
	return plugin{}, nil
}

// A plugin answers at once.
type plugin struct{}

func (plugin) Status(context.Context) (*service.StatusResponse, error) {
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: "1"}, nil
}

func (plugin) Encrypt(_ context.Context, _ string, data []byte) (*service.EncryptResponse, error) {
	return &service.EncryptResponse{Ciphertext: data, KeyID: "1"}, nil
}

func (plugin) Decrypt(_ context.Context, _ string, req *service.DecryptRequest) ([]byte, error) {
	return req.Ciphertext, nil
}
