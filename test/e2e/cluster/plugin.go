package cluster

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const pluginName = "aws-encryption-provider"

// PluginConfig says how a plugin is to run.
type PluginConfig struct {
	Dir     string   // for its log
	Name    string   // for messages and the log's name; "" is aws-encryption-provider
	KMS     string   // URL
	Keys    []string // paired with Sockets
	Sockets []string
	Args    []string // further flags
	Env     []string // further variables
	WorkDir string   // where its process is; empty: where the tests are
}

func (c PluginConfig) program(path string, args ...string) Program {
	return Program{
		Name: c.Name,
		Path: path,
		Args: append(args, c.Args...),
		Dir:  c.WorkDir,
		Env:  environment(c.Dir, slices.Concat(Credentials(), []string{"AWS_EC2_METADATA_DISABLED=true"}, c.Env)...),
		Log:  filepath.Join(c.Dir, c.Name+".log"),
	}
}

// A Plugin is this project's program, running.
type Plugin struct {
	Program

	Health string // URL of its health port

	file  string // that PluginByFile gave it
	loads string // what was last written into it
}

// Plugin starts a plugin from the seed's own command line and waits until it is
// ready.
func (h *Host) Plugin(ctx context.Context, c PluginConfig) (*Plugin, error) {
	if c.Name == "" {
		c.Name = pluginName
	}
	health, err := h.Address(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plugin{Health: "http://" + health}
	p.Program = c.program(h.Bin.Plugin,
		"-key="+strings.Join(c.Keys, ","),
		"-region="+Region,
		"-listen="+strings.Join(c.Sockets, ","),
		"--kms-endpoint="+c.KMS,
		"--health-port="+health,
	)
	return p, p.Start(ctx)
}

// Start starts the plugin, also again after its end, and waits until it is
// ready.
func (p *Plugin) Start(ctx context.Context) error {
	if err := p.Program.Start(); err != nil {
		return err
	}
	return p.WaitReady(ctx, time.Minute+addressLimit) // it waits for its address by itself
}

// WaitReady waits until the plugin's own /readyz is ok.
func (p *Plugin) WaitReady(ctx context.Context, limit time.Duration) error {
	err := Poll(ctx, startPoll, limit, p.Exited(), func(ctx context.Context) error {
		return expectOK(ctx, http.DefaultClient, p.Health+"/readyz")
	})
	if err != nil {
		return fmt.Errorf("%s is not ready: %w; its log ends:\n%s", p.Name, err, p.Tail(20))
	}
	return nil
}

// A Predecessor is the stand-in of the program that the plugin replaces.
type Predecessor struct {
	Program

	socket string
}

// Predecessor starts the stand-in with the first key and socket of c and waits
// until it listens.
func (h *Host) Predecessor(ctx context.Context, c PluginConfig) (*Predecessor, error) {
	if c.Name == "" {
		c.Name = "predecessor"
	}
	p := &Predecessor{socket: c.Sockets[0]}
	p.Program = c.program(h.Bin.Predecessor, "-key="+c.Keys[0], "-region="+Region, "-listen="+c.Sockets[0], "--kms-endpoint="+c.KMS)
	return p, p.Start(ctx)
}

// Start starts the stand-in, also again after its end, and waits until it
// listens.
func (p *Predecessor) Start(ctx context.Context) error {
	if err := p.Program.Start(); err != nil {
		return err
	}
	err := Poll(ctx, startPoll, time.Minute, p.Exited(), func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", p.socket)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		return fmt.Errorf("%s does not listen: %w; its log ends:\n%s", p.Name, err, p.Tail(20))
	}
	return nil
}
