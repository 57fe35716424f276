package config

import (
	"errors"
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
	usualHealth                                            string // of UseHealth
	set                                                    *pflag.FlagSet
	names                                                  []string        // of the flags that are defined here
	fromEnv                                                map[string]bool // flag → its variable gave it
	source                                                 *Source
	cfg                                                    *Config // of the last Parse; nil where it failed
	origins                                                origins // of cfg's values
}

// NewFlags defines the flags of serving in a set.
func NewFlags(set *pflag.FlagSet) *Flags {
	f := &Flags{set: set, fromEnv: map[string]bool{}}
	set.StringVar(&f.config, "config", "", "`FILE` that says all this instead, and is read again when it changes; only flags of log and health may stand beside it")
	f.defineKeys(set)
	f.defineServing(set)
	f.definePredecessors(set)
	set.VisitAll(func(flag *pflag.Flag) {
		f.names = append(f.names, flag.Name)
		_ = set.SetAnnotation(flag.Name, emptyAnnotation, []string{}) // it is there
	})
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
	f.useHealth(&mistakes)
	f.refuseEmptyLists(&mistakes)
	cfg := f.build(&mistakes)
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	f.cfg = cfg
	return cfg, nil
}

// UseListen names the socket of one key where neither --listen nor a file does. It
// is then as if --listen had been given. It is called before [Flags.Parse].
func (f *Flags) UseListen(path string) { f.usualListen = path }

// UseHealth is UseListen for --health-port, where no file says the address either.
func (f *Flags) UseHealth(address string) { f.usualHealth = address }

func (f *Flags) useHealth(m *Mistakes) {
	if f.usualHealth != "" && !f.set.Changed("health-port") && !f.set.Changed("config") {
		assign(f.set, "--health-port", "health-port", f.usualHealth, m)
	}
}

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
	f.origins = f
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
	cfg, words, err := f.source.load(data)
	if found, ok := errors.AsType[Mistakes](err); ok {
		*m = append(*m, found...)
	}
	f.origins = words
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
		var one argument
		one, args = nextArgument(set, args)
		switch {
		case one.name == "":
			mistakes.addUsage("", "unexpected argument "+quote(one.text)+meantByWord(set, one.text))
		case one.name == "help" || one.name == "h":
			return pflag.ErrHelp
		case one.flag == nil:
			mistakes.addUsage("--"+cut(one.name), "unknown flag"+didYouMean(set, one.name))
		case !one.hasValue:
			mistakes.addUsage("--"+one.name, "needs a value")
		case one.value == "" && strings.HasPrefix(one.flag.Value.Type(), "string") && !mayBeEmpty(one.flag):
			mistakes.add("--"+one.name, "is empty: give a value, or leave the flag out")
		default:
			assign(set, "--"+one.flag.Name, one.flag.Name, one.value, mistakes)
		}
	}
	return nil
}

// An argument is one flag of a command line with its value, or what is none.
type argument struct {
	text     string      // as it was given, a value that stands apart left out
	name     string      // of the flag; "" where it is none
	flag     *pflag.Flag // nil where none has the name; of an alias, the flag that it stands for
	value    string
	hasValue bool
}

// nextArgument takes the first argument off a command line that has one.
func nextArgument(set *pflag.FlagSet, args []string) (one argument, rest []string) {
	one.text, rest = args[0], args[1:]
	one.name, one.value, one.hasValue = splitFlag(one.text)
	if one.name == "" {
		return one, rest
	}
	one.flag = set.Lookup(one.name)
	if one.flag == nil && len(one.name) == 1 {
		one.flag = set.ShorthandLookup(one.name)
	}
	switch {
	case one.hasValue, one.name == "help", one.name == "h":
	case one.flag == nil: // what follows was meant for its value
		if len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
			rest = rest[1:]
		}
	case one.flag.NoOptDefVal != "":
		one.value, one.hasValue = one.flag.NoOptDefVal, true
	case len(rest) > 0:
		one.value, one.hasValue, rest = rest[0], true, rest[1:]
	}
	if one.flag != nil {
		one.flag = standsFor(set, one.flag)
	}
	return one, rest
}

// LeadingFlags takes the flags off the front of a command line, each with two dashes
// and its value. What is left begins with the first word that is neither.
func LeadingFlags(set *pflag.FlagSet, args []string) (flags, rest []string) {
	for len(args) > 0 {
		one, rest := nextArgument(set, args)
		if one.name == "" {
			break
		}
		taken := slices.Clone(args[:len(args)-len(rest)])
		if !strings.HasPrefix(one.text, "--") && len(one.name) > 1 {
			taken[0] = "-" + one.text
		}
		flags, args = append(flags, taken...), rest
	}
	return flags, args
}

// SplitArgs takes a command line apart by the rules of [ParseArgs]: words are the
// arguments that are neither flags nor the values of flags; flags is the rest, each
// with two dashes.
func SplitArgs(set *pflag.FlagSet, args []string) (words, flags []string) {
	for {
		leading, rest := LeadingFlags(set, args)
		flags = append(flags, leading...)
		if len(rest) == 0 {
			return words, flags
		}
		words, args = append(words, rest[0]), rest[1:]
	}
}

// aliasOf annotates a flag that is another name of a flag.
const aliasOf = "alias-of"

// Alias gives a flag of the set a further name, which help does not show.
func Alias(set *pflag.FlagSet, alias, name string) {
	flag := *set.Lookup(name)
	flag.Name, flag.Shorthand, flag.Hidden = alias, "", true
	flag.Annotations = map[string][]string{aliasOf: {name}}
	set.AddFlag(&flag)
}

// standsFor is the flag itself, or the one that it is an alias of.
func standsFor(set *pflag.FlagSet, flag *pflag.Flag) *pflag.Flag {
	if of := flag.Annotations[aliasOf]; len(of) > 0 {
		return set.Lookup(of[0])
	}
	return flag
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
	f.set.VisitAll(func(given *pflag.Flag) {
		value, ok := lookup(EnvName(given.Name))
		flag := standsFor(f.set, given)
		if !ok || flag.Changed {
			return
		}
		f.fromEnv[flag.Name] = true
		occurrences := []string{value}
		if strings.HasPrefix(flag.Value.Type(), "string") && flag.Value.Type() != "string" {
			occurrences = strings.Split(strings.TrimSuffix(value, "\n"), "\n")
		}
		for _, one := range occurrences {
			assign(f.set, EnvName(given.Name), flag.Name, one, mistakes)
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
		mistakes.add(field, quote(value)+" "+unlike(set.Lookup(name).Value.Type()))
	}
}

// unlike says of a value why a flag of that type does not take it.
func unlike(flagType string) string {
	switch {
	case flagType == "bool":
		return "is neither true nor false"
	case flagType == "duration":
		return "is no duration: want a number and its unit, such as 2.5s or 3m"
	case strings.HasPrefix(flagType, "int"), strings.HasPrefix(flagType, "uint"):
		return "is no whole number, or too large a one"
	case flagType == "stringSlice":
		return "is no list: want a,b,c; an element with a comma or a quotation mark in it needs quotation marks around it"
	}
	return "cannot be taken"
}

func quote(s string) string { return strconv.Quote(cut(s)) }

func cut(s string) string {
	if len(s) > 120 {
		return strings.ToValidUTF8(s[:120], "") + "..."
	}
	return s
}
