package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// EnvPrefix starts the name of the variable that sets a flag: --kms-endpoint is
// AWS_ENCRYPTION_PROVIDER_KMS_ENDPOINT. A flag that repeats takes one
// occurrence a line. The command line wins.
const EnvPrefix = "AWS_ENCRYPTION_PROVIDER_"

// DefaultSocket is where kube-apiserver's guides expect the plugin.
const DefaultSocket = "/var/run/kmsplugin/socket.sock"

// EnvName returns the variable that sets a flag.
func EnvName(flag string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Flags are the settings as they were given, before anything is made of them.
type Flags struct {
	keys, listen, decryptKeys, contexts, allowUIDs         []string
	region, endpoint, sourceARN, assumeRoleARN, externalID string
	healthPort, healthzPath, livezPath, healthKMSVersion   string
	socketMode, socketGroup, logLevel, logFormat           string
	qpsLimit, burstLimit, retryTokens                      int
	kmsTimeout, outageGrace, shutdownDelay                 time.Duration
	debug                                                  bool
	config                                                 string
	usualListen                                            string // --listen of one key where nothing says it; "": the default
	set                                                    *pflag.FlagSet
	names                                                  []string        // of the flags that are defined here
	fromEnv                                                map[string]bool // flag → its variable gave it
	source                                                 *Source
}

// NewFlags defines the flags of serving in a set.
func NewFlags(set *pflag.FlagSet) *Flags {
	f := &Flags{set: set, fromEnv: map[string]bool{}}
	set.StringVar(&f.config, "config", "", "`FILE` that says all this instead, and is read again when it changes; only flags of log and health may stand beside it")
	f.defineKeys(set)
	f.defineServing(set)
	f.definePredecessors(set)
	set.VisitAll(func(flag *pflag.Flag) { f.names = append(f.names, flag.Name) })
	return f
}

func (f *Flags) defineKeys(set *pflag.FlagSet) {
	set.StringSliceVar(&f.keys, "key", nil, "KMS `KEY` that encrypts: ARN, key id, alias ARN or alias/name; several as a comma list, paired with --listen by position")
	set.StringSliceVar(&f.listen, "listen", []string{DefaultSocket}, "unix `SOCKET` to serve on: a path, or @name for an abstract one; a comma list as for --key")
	set.StringSliceVar(&f.decryptKeys, "decrypt-key", nil, "further `KEY` that may decrypt and never encrypts; repeats; with one pair only")
	set.StringArrayVar(&f.contexts, "encryption-context", nil, "encryption context `a=b,c=d` (brackets allowed); repeats: the n-th belongs to the n-th key")
	set.StringVar(&f.region, "region", "", "AWS `REGION`; default: the key ARN's, the SDK's settings, the instance metadata service")
	set.StringVar(&f.endpoint, "kms-endpoint", "", "`URL` of the KMS endpoint; default: AWS's of the Region")
	set.StringVar(&f.assumeRoleARN, "assume-role-arn", "", "`ARN` of a role to assume for calling KMS")
	set.StringVar(&f.externalID, "external-id", "", "external `ID` for --assume-role-arn")
	set.StringVar(&f.sourceARN, "source-arn", "", "`ARN` for the confused-deputy headers x-amz-source-arn and x-amz-source-account")
	set.DurationVar(&f.kmsTimeout, "kms-timeout", newDocument().KMSTimeout, "most `TIME` that a call may take, retry included; the caller's deadline less 300ms if that is shorter")
	set.IntVar(&f.retryTokens, "retry-token-capacity", 0, "`TOKENS` in the bucket that retries, and only retries, draw from; 0: the SDK's 500")
}

func (f *Flags) defineServing(set *pflag.FlagSet) {
	d := newDocument()
	set.DurationVar(&f.outageGrace, "outage-grace", d.OutageGrace, "`TIME` since the last success during which Status stays ok although KMS cannot be reached; 0 allowed")
	set.DurationVar(&f.shutdownDelay, "shutdown-delay", d.ShutdownDelay, "`TIME` to go on serving after SIGTERM or SIGINT")
	set.StringVar(&f.socketMode, "socket-mode", d.Socket.Mode, "octal `MODE` of the sockets, from their first instant")
	set.StringVar(&f.socketGroup, "socket-group", "", "`GROUP` of the sockets, a name or a number; default: the process's")
	set.StringSliceVar(&f.allowUIDs, "allow-uid", nil, "`UID` that may connect, by the peer credentials of the connection; repeats; default: whoever may open the file")
	set.StringVar(&f.healthPort, "health-port", d.Health.Address, "`ADDRESS` of health paths and /metrics, such as :8080 or 127.0.0.1:8080")
	set.StringVar(&f.healthzPath, "healthz-path", d.Health.HealthzPath, "`PATH` that fails where a restart of this process could help")
	set.StringVar(&f.livezPath, "livez-path", d.Health.LivezPath, "`PATH` that says the same as --healthz-path")
	set.StringVar(&f.logLevel, "log-level", string(d.Log.Level), "`LEVEL` of the log: debug, info, warn or error; SIGUSR1 toggles debug")
	set.StringVar(&f.logFormat, "log-format", string(d.Log.Format), "`FORMAT` of the log: json or text")
	set.BoolVar(&f.debug, "debug", false, "the same as --log-level=debug")
}

// definePredecessors defines what is kept so that its command lines go on
// working.
func (f *Flags) definePredecessors(set *pflag.FlagSet) {
	set.IntVar(&f.qpsLimit, "qps-limit", 0, "deprecated, use --retry-token-capacity: together with --burst-limit the `SIZE` of the retry token bucket; limits no requests")
	set.IntVar(&f.burstLimit, "burst-limit", 0, "deprecated, see --qps-limit (`SIZE`)")
	set.StringVar(&f.healthKMSVersion, "health-kms-version", "v1", "ignored: health is the same for both (`VERSION`s)")
}

// Parse reads a command line and the environment, and the file of --config where
// there is one. One dash and two dashes mean the same. The error is
// [pflag.ErrHelp] or [Mistakes], all of them.
func (f *Flags) Parse(args []string, lookupEnv func(string) (string, bool)) (*Config, error) {
	var mistakes Mistakes
	if err := parseArgs(f.set, args, &mistakes); err != nil {
		return nil, err
	}
	f.parseEnv(lookupEnv, &mistakes)
	f.useListen(&mistakes)
	f.refuseEmptyLists(&mistakes)
	cfg := f.build(&mistakes)
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	return cfg, nil
}

// UseListen names the socket of one key where neither --listen nor a file does. It
// is then as if --listen had been given. It is called before [Flags.Parse].
func (f *Flags) UseListen(path string) { f.usualListen = path }

func (f *Flags) useListen(m *Mistakes) {
	if f.usualListen != "" && len(f.keys) == 1 && !f.set.Changed("listen") && !f.set.Changed("config") {
		assign(f.set, "--listen", "listen", f.usualListen, m)
	}
}

// Source returns the file of --config after [Flags.Parse], to be read again;
// nil where the flags say all.
func (f *Flags) Source() *Source { return f.source }

func (f *Flags) build(m *Mistakes) *Config {
	if f.set.Changed("config") {
		return f.load(m)
	}
	doc := f.document(m)
	b := &builder{words: f, mistakes: *m, told: map[Mistake]bool{}}
	cfg := b.build(doc)
	*m = b.mistakes
	cfg.Warnings = f.warnings()
	return cfg
}

// load makes a Config of the file, and names the flags that it excludes.
func (f *Flags) load(m *Mistakes) *Config {
	f.refuseBesideFile(m)
	if f.config == "" {
		m.add(f.given("config"), "is given and empty: leave it out, or give the path of a file")
		return nil
	}
	f.source = &Source{path: f.config, overrides: f.overrides(), warnings: f.warnings()}
	data, err := ReadInTime(f.config)
	if err != nil {
		m.add(f.given("config"), err.Error())
		return nil
	}
	cfg, err := f.source.Load(data)
	if found, ok := errors.AsType[Mistakes](err); ok {
		*m = append(*m, found...)
	}
	return cfg
}

// refuseBesideFile names each flag that a file says too, with the field that
// does. What says how this process is watched may be given twice.
func (f *Flags) refuseBesideFile(m *Mistakes) {
	for _, t := range translation() {
		if f.set.Changed(t.flag) && !besideFile(t.flag) {
			m.add(f.given(t.flag), "cannot be given with --config: say it as "+t.field)
		}
	}
}

func besideFile(flag string) bool {
	return slices.Contains([]string{"health-port", "healthz-path", "livez-path", "log-level", "log-format", "debug"}, flag)
}

// given is how a flag was given: as such, or as a variable.
func (f *Flags) given(flag string) string {
	if f.fromEnv[flag] {
		return EnvName(flag)
	}
	return "--" + flag
}

// ParseArgs reads the command line of a set of flags by the rules of this
// program: one dash as well as two, all mistakes at once. The error is
// [pflag.ErrHelp] or [Mistakes].
func ParseArgs(set *pflag.FlagSet, args []string) error {
	var mistakes Mistakes
	if err := parseArgs(set, args, &mistakes); err != nil {
		return err
	}
	if len(mistakes) > 0 {
		return mistakes
	}
	return nil
}

// parseArgs does what pflag does, except that it goes on after a mistake.
func parseArgs(set *pflag.FlagSet, args []string, mistakes *Mistakes) error {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, value, hasValue := splitFlag(arg)
		if name == "" {
			mistakes.add("", fmt.Sprintf("unexpected argument %s", quote(arg)))
			continue
		}
		if name == "help" || name == "h" {
			return pflag.ErrHelp
		}
		flag := set.Lookup(name)
		if flag == nil && len(name) == 1 {
			flag = set.ShorthandLookup(name)
		}
		if flag == nil {
			mistakes.add("--"+cut(name), "unknown flag"+didYouMean(set, name))
			if !hasValue && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
				args = args[1:]
			}
			continue
		}
		switch {
		case hasValue:
		case flag.NoOptDefVal != "":
			value = flag.NoOptDefVal
		case len(args) == 0:
			mistakes.add("--"+name, "needs a value")
			continue
		default:
			value, args = args[0], args[1:]
		}
		assign(set, "--"+flag.Name, flag.Name, value, mistakes)
	}
	return nil
}

// splitFlag takes a flag apart; name is "" where arg is none.
func splitFlag(arg string) (name, value string, hasValue bool) {
	name, ok := strings.CutPrefix(arg, "-")
	if !ok {
		return "", "", false
	}
	name, value, hasValue = strings.Cut(strings.TrimPrefix(name, "-"), "=")
	return name, value, hasValue
}

func (f *Flags) parseEnv(lookup func(string) (string, bool), mistakes *Mistakes) {
	f.set.VisitAll(func(flag *pflag.Flag) {
		value, ok := lookup(EnvName(flag.Name))
		if !ok || flag.Changed {
			return
		}
		f.fromEnv[flag.Name] = true
		occurrences := []string{value}
		if strings.HasPrefix(flag.Value.Type(), "string") && flag.Value.Type() != "string" {
			occurrences = strings.Split(strings.TrimSuffix(value, "\n"), "\n")
		}
		for _, one := range occurrences {
			assign(f.set, EnvName(flag.Name), flag.Name, one, mistakes)
		}
	})
}

// refuseEmptyLists keeps a variable that nobody filled in from dropping what it
// stands for: an empty --allow-uid would let everyone in.
func (f *Flags) refuseEmptyLists(mistakes *Mistakes) {
	for _, list := range []struct {
		name   string
		values []string
	}{{"listen", f.listen}, {"decrypt-key", f.decryptKeys}, {"allow-uid", f.allowUIDs}} {
		if f.set.Changed(list.name) && len(list.values) == 0 {
			mistakes.add(f.given(list.name), "is given and empty: leave it out, or give a value")
		}
	}
}

func assign(set *pflag.FlagSet, field, name, value string, mistakes *Mistakes) {
	if err := set.Set(name, value); err != nil {
		mistakes.add(field, fmt.Sprintf("%s is no %s", quote(value), set.Lookup(name).Value.Type()))
	}
}

// didYouMean names the flag that is nearest, where one is near.
func didYouMean(set *pflag.FlagSet, name string) string {
	var names []string
	set.VisitAll(func(flag *pflag.Flag) { names = append(names, flag.Name) })
	if best := nearest(name, names); best != "" {
		return "; did you mean --" + best + "?"
	}
	return ""
}

// nearest is the name that was meant; "" where none is near.
func nearest(name string, names []string) string {
	best, least := "", 3
	for _, one := range names {
		if d := distance(name, one); d < least {
			best, least = one, d
		}
	}
	return best
}

// distance is Levenshtein's, bounded by what a person would call a typo.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func quote(s string) string { return strconv.Quote(cut(s)) }

func cut(s string) string {
	if len(s) > 120 {
		return strings.ToValidUTF8(s[:120], "") + "..."
	}
	return s
}
