package doctor

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	unitName = "aws-encryption-provider.service"
	// unitTime bounds the question to systemd, which may hang with its bus.
	unitTime = 3 * time.Second
)

// A unit is what the node's systemd unit says of who runs the program, and of which
// files it sees: setting → values. An empty value takes back those before it.
type unit struct{ settings map[string][]string }

// deciding are the settings that say which files a service may read, in the order in
// which the command has them.
func deciding() []string {
	return []string{
		"User", "Group", "SupplementaryGroups", "CapabilityBoundingSet", "AmbientCapabilities", "NoNewPrivileges",
		"ProtectHome", "ProtectSystem", "PrivateTmp", "InaccessiblePaths", "EnvironmentFile", "Environment",
	}
}

// shownVariables are those of Environment= that are no secrets: they name files,
// profiles, Regions and roles.
func shownVariables() []string {
	return append(fileVariables(), "HOME", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME",
		"AWS_EC2_METADATA_DISABLED", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT")
}

// fileVariables are those by which the SDK is given a file.
func fileVariables() []string {
	return []string{"AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_CA_BUNDLE"}
}

// findUnit looks for the unit of this node: systemd knows it best, and where it does not
// answer, such as in a container, the unit's files are read. It returns nil where there
// is none.
func findUnit(ctx context.Context) *unit {
	if u, answered := unitOfSystemd(ctx); answered {
		return u
	}
	return unitOfFiles()
}

// unitOfSystemd asks for the unit as it is loaded, its drop-ins included. It reports
// whether systemd answered.
func unitOfSystemd(ctx context.Context) (u *unit, answered bool) {
	ctx, cancel := context.WithTimeout(ctx, unitTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemctl", "show", unitName, "--property=LoadState,EnvironmentFiles,"+strings.Join(deciding(), ",")) //nolint:gosec // words of ours
	cmd.WaitDelay = unitTime
	out, err := cmd.Output()
	if err != nil {
		return nil, false
	}
	u = &unit{settings: map[string][]string{}}
	loaded := false
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch {
		case name == "LoadState":
			loaded = value == "loaded"
		case name == "EnvironmentFiles" && value != "": // "PATH (ignore_errors=yes)"
			path, ignored, _ := strings.Cut(value, " (ignore_errors=")
			if strings.HasPrefix(ignored, "yes") {
				path = "-" + path
			}
			u.settings["EnvironmentFile"] = append(u.settings["EnvironmentFile"], path)
		case name == "CapabilityBoundingSet", value != "":
			u.settings[name] = append(u.settings[name], value)
		}
	}
	if !loaded {
		return nil, true
	}
	return u, true
}

// unitDirectories are where systemd looks for units, the first that has one counts.
//
// https://www.freedesktop.org/software/systemd/man/latest/systemd.unit.html#Unit%20File%20Load%20Path
func unitDirectories() []string {
	if path := os.Getenv("SYSTEMD_UNIT_PATH"); path != "" {
		return strings.Split(strings.Trim(path, ":"), ":")
	}
	return []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}
}

// unitOfFiles reads the unit's file and its drop-ins.
func unitOfFiles() *unit {
	u := &unit{settings: map[string][]string{}}
	dropIns := map[string]string{} // by name: of two the first directory's counts
	for _, dir := range slices.Backward(unitDirectories()) {
		more, _ := filepath.Glob(filepath.Join(dir, unitName+".d", "*.conf"))
		for _, path := range more {
			dropIns[filepath.Base(path)] = path
		}
	}
	dirs := unitDirectories()
	first := slices.IndexFunc(dirs, func(dir string) bool { _, err := os.Stat(filepath.Join(dir, unitName)); return err == nil })
	if first < 0 || !u.read(filepath.Join(dirs[first], unitName)) {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(dropIns)) {
		u.read(dropIns[name])
	}
	return u
}

// read takes over the settings of one file, and reports whether there are any.
func (u *unit) read(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() { // /dev/null masks a unit
		return false
	}
	text, err := os.ReadFile(path) //nolint:gosec // where systemd reads
	if err != nil {
		return false
	}
	text = bytes.ReplaceAll(text, []byte("\\\n"), []byte(" "))
	section := ""
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		name, value, isSetting := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch {
		case strings.HasPrefix(line, "["):
			section = line
		case !isSetting, section != "[Service]", !slices.Contains(deciding(), name):
		case value == "":
			u.settings[name] = []string{""}
		case slices.Contains([]string{"CapabilityBoundingSet", "Environment", "EnvironmentFile", "InaccessiblePaths", "SupplementaryGroups"}, name): // which add up
			u.settings[name] = append(u.settings[name], value)
		default:
			u.settings[name] = []string{value}
		}
	}
	return true
}

// environment is what Environment= sets.
func (u *unit) environment() map[string]string {
	env := map[string]string{}
	for _, value := range u.settings["Environment"] {
		for _, word := range words(value) {
			if name, value, ok := strings.Cut(word, "="); ok {
				env[name] = value
			}
		}
	}
	return env
}

// words takes a list of systemd's apart, in which words with blanks are quoted.
//
// https://www.freedesktop.org/software/systemd/man/latest/systemd.syntax.html#Quoting
func words(text string) (list []string) {
	word, in, quote := "", false, byte(0)
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text):
			i++
			word, in = word+string(text[i]), true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, in = c, true
		case quote == 0 && (c == ' ' || c == '\t'):
			if in {
				list = append(list, word)
			}
			word, in = "", false
		default:
			word, in = word+string(c), true
		}
	}
	if in {
		list = append(list, word)
	}
	return list
}

// command runs doctor with this configuration as the unit runs the program. What may be
// secret of its environment is left out.
//
// https://www.freedesktop.org/software/systemd/man/latest/systemd-run.html
func (u *unit) command(file string) string {
	command := []string{"systemd-run", "--wait", "--pipe", "--collect"}
	for _, name := range deciding() {
		for _, value := range u.settings[name] {
			if u.decides(name, value) {
				command = append(command, "-p", name+"="+value)
			}
		}
	}
	env := u.environment()
	for _, name := range fileVariables() { // as doctor has it, where the unit does not say
		path := os.Getenv(name)
		if _, err := os.Stat(path); env[name] == "" && path != "" && !errors.Is(err, fs.ErrNotExist) { //nolint:gosec // where the SDK reads
			env[name] = path
		}
	}
	for _, name := range shownVariables() {
		if value, ok := env[name]; ok {
			command = append(command, "-E", name+"="+value)
		}
	}
	command = append(command, "aws-encryption-provider", "doctor", "--config="+cmp.Or(file, "/etc/aws-encryption-provider/config.yaml"))
	for i, word := range command {
		command[i] = shellWord(word)
	}
	return strings.Join(command, " ")
}

// decides reports whether a setting makes a difference to what every service has.
func (u *unit) decides(name, value string) bool {
	switch name {
	case "Environment": // may hold secrets
		return false
	case "CapabilityBoundingSet":
		return u.bound()&(1<<unix.CAP_DAC_OVERRIDE) == 0
	}
	return value != "" && value != "no"
}

// shellWord quotes a word for a shell where that is needed.
func shellWord(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\n'\"\\$`&|;<>()*?[]#!{}~") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// runsAs is whom the unit's processes are. An error means that its user is not known
// here, such as one that DynamicUser= makes.
func (u *unit) runsAs() (identity, error) {
	entry, err := lookUp(cmp.Or(u.last("User"), "0"))
	if err != nil {
		return identity{}, err
	}
	uid, err := strconv.ParseUint(entry.Uid, 10, 32)
	if err != nil {
		return identity{}, fmt.Errorf("the user %s: %w", entry.Username, err)
	}
	groups, _ := (&User{UID: uint32(uid)}).groups()
	for name := range strings.FieldsSeq(strings.Join(u.settings["SupplementaryGroups"], " ")) {
		groups = append(groups, groupOf(name)...)
	}
	who := newIdentity(uint32(uid), append(groupOf(u.last("Group")), groups...))
	who.bound = u.bound()
	return who, nil
}

// lookUp finds a user by name or number.
func lookUp(name string) (*user.User, error) {
	if entry, err := user.Lookup(name); err == nil {
		return entry, nil
	}
	return user.LookupId(name)
}

// groupOf is the group of a name or number, none where it is not known.
func groupOf(name string) []uint32 {
	if entry, err := user.LookupGroup(name); err == nil {
		name = entry.Gid
	}
	gid, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return nil
	}
	return []uint32{uint32(gid)}
}

func (u *unit) last(name string) string {
	if values := u.settings[name]; len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}

// bound is what CapabilityBoundingSet= leaves of the two capabilities by which root reads
// what is not its own; all, where the unit does not say.
func (u *unit) bound() uint64 {
	values, given := u.settings["CapabilityBoundingSet"]
	if !given {
		return math.MaxUint64
	}
	list, bound := strings.ToLower(strings.TrimSpace(strings.Join(values, " "))), uint64(0)
	if strings.HasPrefix(list, "~") { // all but these
		bound = math.MaxUint64
	}
	for name, bit := range map[string]int{"cap_dac_override": unix.CAP_DAC_OVERRIDE, "cap_dac_read_search": unix.CAP_DAC_READ_SEARCH} {
		if strings.Contains(list, name) {
			bound ^= 1 << bit
		}
	}
	return bound
}

// unitReads tells of files that the unit's user may not read although doctor may: as
// root it reads everything, and the unit's root does not.
func (x *examination) unitReads(g *Group) {
	if os.Geteuid() != 0 {
		return
	}
	u := x.unit()
	if u == nil {
		return
	}
	who, err := u.runsAs()
	if err != nil {
		return // such as of DynamicUser=
	}
	env := u.environment()
	for _, name := range fileVariables() {
		if path := env[name]; path != "" {
			x.unitRead(g, u, who, path, Failure, name+" of the unit")
		} else if path := os.Getenv(name); path != "" {
			x.unitRead(g, u, who, path, Warning, name)
		}
	}
	if x.Config.File != "" {
		x.unitRead(g, u, who, x.Config.File, Failure, "--config")
	}
}

func (x *examination) unitRead(g *Group, u *unit, who identity, path string, status Status, named string) {
	if opens(path) != nil {
		return // who looks makes no difference then
	}
	var err error
	if failed := who.as(func() { err = opens(path) }); failed != nil || !errors.Is(err, fs.ErrPermission) {
		return
	}
	g.tell(UnitLacks, status, fmt.Sprintf("%s cannot read %s", unitName, path), fmt.Sprintf("%s, as user %d: %s", named, who.uid, syscall.EACCES),
		fmt.Sprintf("let user %d read it and enter each directory on the way: chown %[1]d %s, where nobody else needs it; this looks as the unit does: %s", who.uid, shellWord(path), u.command(x.Config.File)))
}

// opens tries whether the calling thread's user may read a file.
func opens(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator names the file
	if err != nil {
		return err
	}
	return f.Close()
}
