// Package readiness says over HTTP how the process is doing: /readyz, its parts and its
// verbose form, and the paths of liveness. It decides nothing: it words what it is shown.
package readiness

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// Options configure the pages. All fields are required.
type Options struct {
	Liveness []string        // paths
	Live     func() error    // why a restart would help; nil: it would not
	Look     func() Snapshot // how all is doing now
	Metrics  http.Handler    // of /metrics
}

// A Snapshot is what is served at one moment.
type Snapshot struct {
	Providers []Provider // in the order of the configuration
	File      *File      // nil: the configuration is not of a file
}

// A Provider is one provider with its socket.
type Provider struct {
	Name   string
	Socket string // path
	Health provider.Health
	Began  time.Time // when it was configured

	Missing  error     // why the socket cannot be had; nil: it can
	Since    time.Time // of Missing
	Answers  bool      // it is served
	Made     time.Time // when the socket was configured
	Lost     error     // why callers cannot find the socket; nil: they can
	LostFrom time.Time
}

// A File is what became of the file of --config.
type File struct {
	Path, Hash string
	Loaded     time.Time
	Err        error     // why the file as it is now is not served; nil: it is
	Since      time.Time // of Err
	Retried    bool      // it is tried again, also where it does not change
}

// pages answer what is asked on the health port.
type pages struct{ Options }

// Handler answers GET and HEAD.
func Handler(o Options) http.Handler { return pages{o} }

// ServeHTTP implements [http.Handler]. Paths are compared as they are: what an
// operator may configure is no pattern of a mux.
func (p pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		answer(w, http.StatusMethodNotAllowed, "only GET and HEAD are answered here")
		return
	}
	verbose := r.URL.Query().Has("verbose")
	name, one := strings.CutPrefix(r.URL.Path, "/readyz/")
	switch {
	case slices.Contains(p.Liveness, r.URL.Path):
		p.livez(w)
	case r.URL.Path == "/readyz":
		p.readyz(w, verbose)
	case one:
		p.readyzOne(w, name, verbose)
	case r.URL.Path == "/metrics":
		p.Metrics.ServeHTTP(w, r)
	default:
		answer(w, http.StatusNotFound, "nothing is served here, but at "+strings.Join(p.Liveness, ", ")+", /readyz, /readyz/<n> and /metrics")
	}
}

// livez fails only where a restart could help.
func (p pages) livez(w http.ResponseWriter) {
	if err := p.Live(); err != nil {
		answer(w, http.StatusInternalServerError, err.Error())
		return
	}
	answer(w, http.StatusOK, "ok")
}

// readyz fails while any provider cannot encrypt. A failed reload does not affect
// readiness: the previous configuration is still served.
func (p pages) readyz(w http.ResponseWriter, verbose bool) {
	all := p.Look()
	lines := make([]string, 0, len(all.Providers))
	code := http.StatusOK
	for _, one := range all.Providers {
		line, ready := one.Line()
		if !ready {
			code = http.StatusServiceUnavailable
		}
		lines = append(lines, line)
		if verbose {
			lines = append(lines, one.details()...)
		}
	}
	if verbose && all.File != nil {
		lines = append(lines, all.File.lines()...)
	}
	answer(w, code, strings.Join(lines, "\n"))
}

func (p pages) readyzOne(w http.ResponseWriter, name string, verbose bool) {
	all := p.Look()
	i := slices.IndexFunc(all.Providers, func(one Provider) bool { return one.Name == name })
	if i < 0 {
		answer(w, http.StatusNotFound, "no provider has that name; "+all.names())
		return
	}
	line, ready := all.Providers[i].Line()
	if verbose {
		line = strings.Join(append([]string{line}, all.Providers[i].details()...), "\n")
	}
	code := http.StatusOK
	if !ready {
		code = http.StatusServiceUnavailable
	}
	answer(w, code, line)
}

// names says how the providers are called.
func (s Snapshot) names() string {
	if s.File == nil {
		return "they are numbered from 0 in the order of --key"
	}
	names := make([]string, len(s.Providers))
	for i, p := range s.Providers {
		names[i] = p.Name
	}
	return "there are " + strings.Join(names, ", ")
}

// Line is the provider's line on /readyz.
func (p Provider) Line() (line string, ready bool) {
	h := p.Health
	prefix := "provider " + p.Name + ": "
	switch {
	case p.Missing != nil:
		return fmt.Sprintf("%sits socket is not served since %s: %v", prefix, stamp(p.Since), p.Missing), false
	case !p.Answers:
		return prefix + "its socket is not served yet, since the start at " + stamp(p.Made), false
	case p.Lost != nil:
		return fmt.Sprintf("%sits %s since %s: %v", prefix, unixsocket.LossWords(p.Lost), stamp(p.LostFrom), p.Lost), false
	}
	switch {
	case h.CanEncrypt() && h.Suspect:
		return prefix + "ok, but a call failed since it last worked: " + h.Err.Error() + readKeys(h), true
	case h.CanEncrypt():
		return prefix + "ok, key_id " + h.KeyID + readKeys(h), true
	case h.Err == nil:
		return fmt.Sprintf("%s%s since %s: %v", prefix, h.State, stamp(p.Began), &cause.Error{Code: cause.NoContact, Key: h.Key}), false
	}
	line = fmt.Sprintf("%s%s since %s: %v", prefix, h.State, stamp(h.Since), h.Err)
	return line + grace(h.GraceEnds) + readKeys(h), false
}

// grace says what Status makes of an outage whose grace has that end.
func grace(ends time.Time) string {
	switch {
	case ends.IsZero():
		return ""
	case time.Now().Before(ends):
		return "; Status stays ok until " + stamp(ends)
	}
	return "; Status has not been ok since " + stamp(ends)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// readKeys names the keys that only read and fail or are to be deleted. They decide
// nothing: what they can still open is between them and the data.
func readKeys(h provider.Health) string {
	var b strings.Builder
	for _, k := range h.ReadKeys {
		switch {
		case k.Err != nil && k.State.Fails():
			fmt.Fprintf(&b, "\n  decrypt key %s is %s: %v%s", k.Key, k.State, k.Err, deletionWords(k.Deletion))
		case k.Err != nil:
			fmt.Fprintf(&b, "\n  decrypt key %s failed, which is to be confirmed: %v", k.Key, k.Err)
		case k.Deletion != nil:
			fmt.Fprintf(&b, "\n  decrypt key %s still reads%s", k.Key, deletionWords(k.Deletion))
		}
	}
	return b.String()
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text + "\n")) // plain text, which no browser may take for anything else
}
