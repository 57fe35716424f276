package awskms

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/config"
	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// barred are the shared configuration files that this process may not read, by their
// paths. The SDK takes them for empty and goes on to the next source of credentials
// (loadIniFiles in config), which is then blamed for what it does not have. A usual
// path that cannot even be looked at is left out: mostly nothing is there.
func barred() []string {
	var paths []string
	for name, usual := range map[string]string{
		"AWS_CONFIG_FILE": config.DefaultSharedConfigFilename(), "AWS_SHARED_CREDENTIALS_FILE": config.DefaultSharedCredentialsFilename(),
	} {
		named := os.Getenv(name)
		path := cmp.Or(named, usual)
		if _, err := os.Stat(path); err != nil && named == "" { //nolint:gosec // where the SDK reads
			continue
		}
		if err := unix.Access(path, unix.R_OK); errors.Is(err, fs.ErrPermission) { // and not by opening it: it may be a pipe
			paths = append(paths, path)
		}
	}
	return paths
}

// barredText says that files may not be read.
func barredText(paths []string) string {
	quoted := make([]string, len(paths))
	for i, path := range paths {
		quoted[i] = cause.Quote(path)
	}
	return strings.Join(quoted, " and ") + ": permission denied"
}

// letIn says what to do about them.
func letIn(paths []string) string {
	uid := os.Geteuid()
	text := fmt.Sprintf("let user %d read it: by its owner, its group or its mode, and the same of the directories above", uid)
	if len(paths) > 1 {
		text = strings.Replace(text, "read it: by its owner, its group or its mode", "read them: by their owner, group or mode", 1)
	}
	if uid == 0 {
		text += "; root needs that too where it has no CAP_DAC_OVERRIDE, as by the systemd unit"
	}
	return text
}

// blameBarred names the files that may not be read where credentials or the Region
// were to come from them, and were then looked for elsewhere.
func (o *sourceSettings) blameBarred(e *cause.Error) {
	if o == nil || len(o.barred) == 0 || !o.ofProfile() {
		return
	}
	e.Code, e.AWSCode, e.Source = cause.SettingsUnreadable, "", ""
	e.Said, e.Check = barredText(o.barred), letIn(o.barred)
}

// warnOfBarred tells that files count as empty, whatever is found elsewhere.
func (l *sdkLog) warnOfBarred(paths []string) {
	if l.log == nil || len(paths) == 0 {
		return
	}
	text := barredText(paths)
	if _, ok := l.tell(text); ok {
		l.log.Warn("a file of AWS settings cannot be read, and counts as empty", slog.String("error", text), slog.String("next", letIn(paths)))
	}
}
