package config

import (
	"time"
)

// What stands in the head of every file.
const (
	apiGroup   = "aws-encryption-provider.sigs.k8s.io"
	apiVersion = apiGroup + "/v1alpha1"
	kind       = "ProviderConfiguration"
)

// A document is the configuration in an operator's words: what a file says, and
// what flags are turned into. Each field's tag is its name in the file; the JSON
// schema in deploy says the same, and a test compares the two.
type document struct {
	APIVersion    string             `file:"apiVersion,required"`
	Kind          string             `file:"kind,required"`
	KMSTimeout    time.Duration      `file:"kmsTimeout"`
	OutageGrace   time.Duration      `file:"outageGrace"`
	ShutdownDelay time.Duration      `file:"shutdownDelay"`
	Socket        socketDocument     `file:"socket"`
	Health        healthDocument     `file:"health"`
	Log           logDocument        `file:"log"`
	Providers     []providerDocument `file:"providers,required"`
}

type socketDocument struct {
	Mode      string   `file:"mode"`
	Group     string   `file:"group"`
	AllowUIDs []uint32 `file:"allowUIDs"`
}

type healthDocument struct {
	Address     string `file:"address"`
	HealthzPath string `file:"healthzPath"`
	LivezPath   string `file:"livezPath"`
}

type logDocument struct {
	Level  logLevel  `file:"level"`
	Format logFormat `file:"format"`

	debug bool // --debug, which wins over the level
}

type providerDocument struct {
	Name               string `file:"name,required"`
	Listen             string `file:"listen"`
	Epoch              uint32 `file:"epoch"`
	RetryTokenCapacity uint32 `file:"retryTokenCapacity"`
	Keys               []Key  `file:"keys,required"`

	flatRetries bool // the predecessor's, which a file cannot say
}

type logLevel string

func (logLevel) values() []string { return []string{"debug", "info", "warn", "error"} }

type logFormat string

func (logFormat) values() []string { return []string{"json", "text"} }

// DefaultSocket is where kube-apiserver's guides expect the plugin. It is that of a
// provider which is alone and names none.
const DefaultSocket = "/var/run/kmsplugin/socket.sock"

// newDocument returns what holds where nothing is said, with flags and in a
// file.
func newDocument() *document {
	return &document{
		KMSTimeout:  2500 * time.Millisecond,
		OutageGrace: 3 * time.Minute,
		Socket:      socketDocument{Mode: "0600"},
		Health:      healthDocument{Address: ":8080", HealthzPath: "/healthz", LivezPath: "/livez"},
		Log:         logDocument{Level: "info", Format: "json"},
	}
}
