package awskms

import (
	"maps"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
)

// files is what was seen of the files that the SDK reads once, when its settings
// are loaded: shared configuration, shared credentials, CA bundle. nil stands
// for one that is not there.
//
// Files with a token, of a web identity or of a container's credentials, are not
// among them: the SDK reads those at each renewal (stscreds.IdentityTokenFile,
// endpointcreds.Options.AuthorizationTokenProvider).
type files map[string]os.FileInfo

// lookAtFiles follows symbolic links: the mounts of Kubernetes swap one.
func lookAtFiles(bundle string) files {
	seen := files{}
	for name, usual := range map[string]string{
		"AWS_SHARED_CREDENTIALS_FILE": config.DefaultSharedCredentialsFilename(),
		"AWS_CONFIG_FILE":             config.DefaultSharedConfigFilename(),
		"AWS_CA_BUNDLE":               bundle,
	} {
		path := os.Getenv(name)
		if path == "" {
			path = usual
		}
		if path != "" {
			seen[path], _ = os.Stat(path) //nolint:gosec // where the SDK reads; what cannot be looked at counts as not there
		}
	}
	return seen
}

func (f files) equal(g files) bool {
	return maps.EqualFunc(f, g, func(a, b os.FileInfo) bool {
		if a == nil || b == nil {
			return a == nil && b == nil
		}
		return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
	})
}

// bundleOf returns the CA bundle that shared configuration names: where one is
// set at all, in the environment or there, the SDK trusts nothing else.
func bundleOf(cfg aws.Config) string {
	for _, source := range cfg.ConfigSources {
		if shared, ok := source.(config.SharedConfig); ok {
			return shared.CustomCABundle
		}
	}
	return ""
}
