package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"
)

// A Keyring is one provider of a plugin's own configuration file: the first key
// writes, all read.
type Keyring struct {
	Name   string
	Socket string
	Keys   []string
	Epoch  int
	Grace  time.Duration // of the whole file, by its first ring; 0: the program's own
}

// ProviderConfiguration is a plugin's configuration file, YAML, for keys of the
// KMS at this URL. A call may take as long as the API server lets it, for the sake
// of busy machines.
func ProviderConfiguration(kms string, rings ...Keyring) string {
	var b strings.Builder
	b.WriteString(`apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1
kind: ProviderConfiguration
kmsTimeout: 1m
`)
	if len(rings) > 0 && rings[0].Grace > 0 {
		fmt.Fprintf(&b, "outageGrace: %s\n", rings[0].Grace)
	}
	b.WriteString("providers:\n")
	for _, r := range rings {
		fmt.Fprintf(&b, "- name: %s\n  listen: %s\n", r.Name, r.Socket)
		if r.Epoch > 0 {
			fmt.Fprintf(&b, "  epoch: %d\n", r.Epoch)
		}
		b.WriteString("  keys:\n")
		for _, key := range r.Keys {
			fmt.Fprintf(&b, "  - key: %s\n    region: %s\n    endpoint: %s\n", key, regionOf(key), kms)
		}
	}
	return b.String()
}

// regionOf is the Region of a key's ARN, else the tests' own.
func regionOf(key string) string {
	if parts := strings.Split(key, ":"); len(parts) == 6 {
		return parts[3]
	}
	return Region
}

// PluginByFile starts a plugin whose providers stand in a file, and waits until
// it is ready. Of c it takes all but KMS, Keys and Sockets.
func (h *Host) PluginByFile(ctx context.Context, c PluginConfig, yaml string) (*Plugin, error) {
	if c.Name == "" {
		c.Name = pluginName
	}
	health, err := h.Address(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plugin{Health: "http://" + health, file: filepath.Join(c.Dir, c.Name+".yaml")}
	p.Program = c.program(h.Bin.Plugin, "--config="+p.file, "--health-port="+health)
	if err := p.SetFile(yaml); err != nil {
		return nil, err
	}
	return p, p.Start(ctx)
}

// SetFile replaces the file of a plugin that PluginByFile started in one step.
// The plugin finds out by itself; WaitLoaded tells when.
func (p *Plugin) SetFile(yaml string) error {
	p.loads = yaml
	return replaceFile(p.file, yaml)
}

// WaitLoaded waits until the plugin says by its metrics that it works with the
// file that was set last.
func (p *Plugin) WaitLoaded(ctx context.Context, limit time.Duration) error {
	const prefix = "aws_encryption_provider_config_"
	sum := sha256.Sum256([]byte(p.loads))
	hash := hex.EncodeToString(sum[:])[:16]
	err := Poll(ctx, startPoll, limit, p.Exited(), func(ctx context.Context) error {
		text, err := getOK(ctx, http.DefaultClient, p.Health+"/metrics")
		if err != nil {
			return err
		}
		samples := ParseMetrics(text)
		if v, ok := samples.Value(prefix+"reload_success", nil); !ok || v != 1 {
			return fmt.Errorf("%sreload_success is %v (present: %t)", prefix, v, ok)
		}
		if v, ok := samples.Value(prefix+"info", map[string]string{"hash": hash}); !ok || v != 1 {
			return fmt.Errorf("%sinfo has no hash %s: %v", prefix, hash, samples.Named(prefix+"info"))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s has not loaded its file: %w; its log ends:\n%s", p.Name, err, p.Tail(20))
	}
	return nil
}
