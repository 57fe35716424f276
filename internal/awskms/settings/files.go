package settings

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// Seen is what was seen of the files that settings are read from, and the profile by
// which they are known. The zero value is nothing yet.
type Seen struct {
	files   files
	profile config.SharedConfig
}

// Equal reports whether the same was seen.
func (s Seen) Equal(other Seen) bool { return s.files.equal(other.files) }

// A Look is what a look at files found.
type Look struct {
	Seen   Seen
	Tokens error // why no token can be read
}

// Look looks at the files, and refuses those that nobody can read to an end. Where
// they are as they were seen, it looks for no further ones unless it is told to. It
// may block where a file system does; at is told at which path it is.
func (s Seen) Look(ctx context.Context, further bool, at func(path string)) (Look, error) {
	found := Look{Seen: Seen{lookAt(settingsFiles(s.profile), at), s.profile}}
	if err := found.Seen.files.refuse(); err != nil || !further && found.Seen.Equal(s) {
		return found, err
	}
	profile := profileOf(ctx)
	found.Seen = Seen{lookAt(settingsFiles(profile), at), profile}
	found.Tokens = lookAt(tokenFiles(profile), at).refuse()
	return found, found.Seen.files.refuse()
}

// files is what was seen of files, by path. nil stands for one that is not there.
type files map[string]os.FileInfo

// lookAt follows symbolic links: the mounts of Kubernetes swap one. It says at which
// path it is.
func lookAt(paths []string, at func(path string)) files {
	seen := files{}
	for _, path := range paths {
		if path != "" {
			at(path)
			seen[path], _ = os.Stat(path) // what cannot be looked at counts as not there
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

// maxFile is many times what a file of settings, a CA bundle or a token needs.
const maxFile = 4 << 20

// unreadableError is a file that must not be opened: whoever reads it waits for a
// writer and cannot be interrupted, or reads without an end into its memory.
type unreadableError struct{ path, why string }

func (e *unreadableError) Error() string { return cause.Quote(e.path) + " " + e.why }

// refuse returns an [*unreadableError] where one of the files is a named pipe, a
// device other than /dev/null, or too long.
func (f files) refuse() error {
	for _, path := range slices.Sorted(maps.Keys(f)) {
		info := f[path]
		switch {
		case info == nil:
		case info.Mode()&fs.ModeNamedPipe != 0:
			return &unreadableError{path, "is a named pipe, which blocks whoever reads it: a file is needed"}
		case info.Mode()&fs.ModeDevice != 0 && !isNull(info):
			return &unreadableError{path, "is a device, which may have no end: a file is needed"}
		case info.Mode().IsRegular() && info.Size() > maxFile:
			return &unreadableError{path, fmt.Sprintf("has %d bytes, and no such file needs more than %d", info.Size(), maxFile)}
		}
	}
	return nil
}

// An UnreadError is a shared configuration file that this user may not read. The SDK
// passes over it as if it were not there.
type UnreadError struct {
	path  string
	named bool // by the environment
}

func (e *UnreadError) Error() string { return e.path + ": " + syscall.EACCES.Error() }

// Blame has the file told in place of what was looked for beyond it.
func (e *UnreadError) Blame(err *cause.Error) {
	*err = cause.Error{Code: cause.SettingsUnreadable, Op: err.Op, Key: err.Key, Err: err.Err, Said: e.Error(), Check: e.check()}
}

// check is what to do about it. It is safe to print.
func (e *UnreadError) check() string {
	next := fmt.Sprintf("let user %d, as whom this process runs, read %s and enter each directory on the way to it", os.Geteuid(), cause.Quote(e.path))
	if os.Geteuid() == 0 {
		next += "; root without capabilities, as the systemd unit runs it, reads its own files and those of everybody"
	}
	return next
}

// unreadShared returns the first shared configuration file that this user may not
// read; nil: there is none. In somebody else's home, where nobody has named a file,
// there need not be one.
func unreadShared() *UnreadError {
	named := []string{os.Getenv("AWS_CONFIG_FILE"), os.Getenv("AWS_SHARED_CREDENTIALS_FILE")}
	for _, path := range sharedPaths() {
		// Not by opening it: it may be a pipe, which somebody waits to write into.
		err := mayRead(path)
		_, absent := os.Lstat(path)
		if isNamed := slices.Contains(named, path); errors.Is(err, fs.ErrPermission) && (absent == nil || isNamed) {
			return &UnreadError{path, isNamed}
		}
	}
	return nil
}

// settingsFiles are those that the SDK reads once, when its settings are loaded:
// shared configuration, shared credentials, CA bundle.
func settingsFiles(profile config.SharedConfig) []string {
	paths := []string{profile.CustomCABundle}
	for name, usual := range map[string]string{
		"AWS_SHARED_CREDENTIALS_FILE": config.DefaultSharedCredentialsFilename(),
		"AWS_CONFIG_FILE":             config.DefaultSharedConfigFilename(),
		"AWS_CA_BUNDLE":               "",
	} {
		if path := os.Getenv(name); path != "" {
			usual = path
		}
		paths = append(paths, usual)
	}
	return paths
}

// tokenFiles are those that the SDK reads whenever it asks for credentials, so that
// nothing has to notice that they change: of a web identity and of a container
// (stscreds.IdentityTokenFile, endpointcreds.Options.AuthorizationTokenProvider).
func tokenFiles(profile config.SharedConfig) []string {
	paths := []string{os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE"), os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")}
	for p := &profile; p != nil; p = p.Source {
		paths = append(paths, p.WebIdentityTokenFile)
	}
	return paths
}

// profileOf reads the profile alone: it names further files, which must be looked
// at before the SDK opens them. What is wrong with it is told when the settings are
// loaded.
func profileOf(ctx context.Context) config.SharedConfig {
	env, err := config.NewEnvConfig()
	if err != nil {
		return config.SharedConfig{}
	}
	name := env.SharedConfigProfile
	if name == "" {
		name = config.DefaultSharedConfigProfile
	}
	profile, err := config.LoadSharedConfigProfile(ctx, name, func(o *config.LoadSharedConfigOptions) {
		o.Logger = logging.Nop{}
		if env.SharedConfigFile != "" {
			o.ConfigFiles = []string{env.SharedConfigFile}
		}
		if env.SharedCredentialsFile != "" {
			o.CredentialsFiles = []string{env.SharedCredentialsFile}
		}
	})
	if err != nil {
		return config.SharedConfig{}
	}
	return profile
}
