package generate

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

// A role is what a directory is for. One directory has one role: with two, one
// side would be given what is the other's.
type role int

const (
	sockets    role = iota // of both
	encryption             // of kube-apiserver: it may have keys in it
	settings               // of the program: its own file
	files                  // of the program: what the operator adds
	program                // the program itself, on a node
)

// A claim is a path on a node that an option names.
type claim struct {
	flag, path string
	dir        string // what is mounted, or has the file in it
	role       role
	effect     string // what becomes of dir; "": nothing
	apiServer  bool   // dir goes into kube-apiserver
	idle       bool   // what is generated does not name it
	instead    string // a path that does
}

// mountFlag names what is mounted as it is.
const mountFlag = "--mount"

// Places that always do.
const (
	filesInstead = "/etc/aws-encryption-provider/aws/FILE"
	kopsSocket   = kopsMounts + "/aws-encryption-provider/socket.sock"
)

// Effects of a claim.
const (
	mountsWhole = "would be mounted as a whole"
	hides       = "would be hidden by a volume"
	opens       = "would be open for the service to write"
)

// pathMistakes are those of all paths that options name, whatever is generated.
func (o *Options) pathMistakes(k Kind) config.Mistakes {
	var m config.Mistakes
	add := func(c claim, text string) bool {
		if text != "" {
			m = append(m, config.Mistake{Field: c.flag, Text: text})
		}
		return text != ""
	}
	var sound []claim
	for _, c := range o.claims(k) {
		if !add(c, c.fault(k)) {
			sound = append(sound, c)
		}
	}
	told := map[claim]bool{}
	for i, c := range sound {
		one, text := c.meets(sound[:i])
		told[one] = add(one, text) || told[one]
	}
	for _, c := range sound {
		if !told[c] {
			add(c, c.foreign())
		}
	}
	if g, found := groundOf(o.Out); o.Out != "" && found && !g.work {
		where := o.Out + " is no place for generated files, and "
		if canonical(o.Out) != g.path {
			where = o.Out + " lies in " + g.path + ", and "
		}
		add(claim{flag: "--out"}, where+g.why+": give a directory of its own, such as ./generated")
	}
	return m
}

// meets says that a claim and one of others share a directory that only one of them
// may have, and of which of the two that is to be told.
func (c claim) meets(others []claim) (told claim, text string) {
	for _, other := range others {
		given := cmp.Or(c.givesAway(other), other.givesAway(c))
		if given == "" {
			continue
		}
		if c.path == c.instead { // the other one is in its way
			c, other = other, c
		}
		return c, fmt.Sprintf("%s: its directory is not apart from that of %s, %s, and %s: give it a directory of its own, such as %s",
			c.path, other.flag, other.path, given, c.instead)
	}
	return c, ""
}

// claims are the paths of all options, the kind's effects with them.
func (o *Options) claims(k Kind) []claim {
	all := o.socketClaims(k)
	enc := claim{flag: "--encryption-config-path", path: o.PathAt, dir: path.Dir(o.PathAt), role: encryption, instead: DefaultEncConfig}
	if k.effect == mountsWhole && o.mountsFile() {
		enc.dir = o.PathAt
	}
	enc.idle = k.Socket != "" // kOps has a place of its own for it
	if k.apiServer {
		enc.effect, enc.apiServer = k.effect, true
	}
	own := claim{flag: "--config-path", path: o.FileAt, dir: path.Dir(o.FileAt), role: settings, instead: DefaultConfigAt}
	own.idle = o.File == nil || !k.starts
	if k.program && !own.idle {
		own.effect = k.effect
	}
	all = append(all, enc, own)
	for _, env := range o.Env {
		for _, f := range envFiles(env) {
			all = append(all, o.fileClaim(k, "--env: "+f.variable, f.path, f.dir))
		}
	}
	for _, at := range o.Mounts {
		all = append(all, o.fileClaim(k, mountFlag, at, at))
	}
	return append(all, claim{
		flag: "--program", path: o.Program, dir: path.Dir(o.Program), role: program, idle: !k.starts || k.program, instead: DefaultProgram,
	})
}

func (o *Options) socketClaims(k Kind) []claim {
	var all []claim
	for _, p := range o.Config.Providers {
		if strings.HasPrefix(p.Listen, "@") {
			continue
		}
		c := claim{flag: "--listen", path: p.Listen, dir: path.Dir(p.Listen), role: sockets, apiServer: k.apiServer, instead: config.DefaultSocket}
		if k.Socket != "" || within(c.dir, "/srv/kubernetes") {
			c.instead = kopsSocket
		}
		switch {
		case k.program, k.apiServer:
			c.effect = k.effect
		case k.starts:
			c.effect = opens
		}
		if k.effect == hides && canonical(c.dir) == "/run" { // as HyperShift has it
			c.effect = ""
		}
		all = append(all, c)
	}
	return all
}

// fileClaim is of what the program reads besides its own file.
func (*Options) fileClaim(k Kind, flag, at, dir string) claim {
	c := claim{flag: flag, path: at, dir: dir, role: files, instead: filesInstead}
	if k.program && k.effect == mountsWhole {
		c.effect = mountsWhole
	}
	return c
}

// An envFile is a file, or a directory of files, that a variable names.
type envFile struct{ variable, path, dir string }

// envFiles are what the program reads because of a variable.
//
// https://docs.aws.amazon.com/sdkref/latest/guide/environment-variables.html,
// https://pkg.go.dev/crypto/x509#SystemCertPool
func envFiles(env string) []envFile {
	name, value, _ := strings.Cut(env, "=")
	switch name {
	case "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "SSL_CERT_FILE":
		return []envFile{{name, value, path.Dir(value)}}
	case "SSL_CERT_DIR":
		var all []envFile
		for dir := range strings.SplitSeq(value, ":") {
			all = append(all, envFile{name, dir, dir})
		}
		return all
	}
	return nil
}

// fault says what is wrong with a path: first where it leads, then how it is written.
func (c claim) fault(k Kind) string {
	text := c.form(k)
	switch {
	case text == "":
		return c.known(k)
	case !path.IsAbs(c.path):
		return text
	}
	plain := c
	plain.path = path.Clean(c.path)
	plain.dir = path.Dir(plain.path)
	if c.dir == c.path {
		plain.dir = plain.path
	}
	return cmp.Or(plain.known(k), text)
}

// legible is a path as it may be printed.
func legible(at string) string {
	if strings.ContainsFunc(at, func(r rune) bool { return !unicode.IsPrint(r) }) || len(at) > 200 {
		return fmt.Sprintf("%.120q", at)
	}
	return at
}

// form says what is wrong with how a path is written.
func (c claim) form(k Kind) string {
	clean := path.Clean(c.path)
	switch {
	case c.path == "":
		return "is empty: give a path, such as " + c.instead
	case !path.IsAbs(c.path):
		return fmt.Sprintf("%.120q is no absolute path: give one, such as %s", c.path, c.instead)
	case c.letters(k) != "":
		return c.letters(k)
	case strings.Contains(c.path+"/", "/../"):
		return fmt.Sprintf("%.120q goes up by \"..\": write where that leads, %s", c.path, clean)
	case len(c.path) > 1 && strings.HasSuffix(c.path, "/"):
		return fmt.Sprintf("%.120q ends in a slash: write %s", c.path, clean)
	case clean != c.path:
		return fmt.Sprintf("%.120q is not written in full and plainly: write %s", c.path, clean)
	}
	return ""
}

// letters says what cannot stand in a path. Manifests, units and RKE2's mounts give
// some letters a meaning. Only units are written with quotes around a blank.
//
// https://github.com/rancher/rke2/blob/6ce1a8019e9d0b81eb7a715edbc2b8ac12d26da0/pkg/podtemplate/podtemplate.go
func (c claim) letters(k Kind) string {
	unused := c.role == sockets && c.effect == ""
	blanks := k.quotes && strings.TrimSpace(c.path) == c.path
	i := strings.IndexFunc(c.path, func(r rune) bool {
		switch {
		case unused:
			return unicode.IsControl(r)
		case blanks && r == ' ':
			return false
		}
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+=@~", r))
	})
	if i < 0 {
		return ""
	}
	what := fmt.Sprintf("has %.1q in it, which mounts and units may take for something else", c.path[i:])
	switch c.path[i] {
	case ' ', '\t', '\n', '\r':
		what = "has a blank in it, and not every tool that reads this keeps such a path together"
		if k.quotes {
			what = "has a blank in it that a unit loses: one at its end, or a tab or new line"
		}
	case ':':
		what = "has a colon in it, at which mounts are taken apart"
	case ',':
		what = "has a comma in it, at which lists are taken apart"
	}
	return fmt.Sprintf("%.120q %s: give a path without it, such as %s", c.path, what, c.instead)
}

// foreign says that nothing tells that a path is ours.
func (c claim) foreign() string {
	if c.idle && c.role != encryption || c.isAllowed() {
		return ""
	}
	what := c.subject()
	if c.effect != "" {
		what += " " + c.effect + ", and"
	}
	what += " may be another program's by its name: "
	if c.role == program {
		return what + "put the program into a directory bin, such as " + c.instead
	}
	return what + "give it a directory of its own that is named for it, such as " + c.better()
}

// known is why a known place is no place for a claim.
func (c claim) known(k Kind) string {
	lasting := c.role == encryption || c.role == settings || c.role == program
	if c.isPublic() {
		return ""
	}
	if why := telling(path.Base(c.path)); why != "" && c.role != sockets {
		if g, found := groundOf(path.Dir(c.path)); found {
			return fmt.Sprintf("%s %s, and lies in %s, and %s: give another file, such as %s", legible(c.path), why, g.path, g.why, c.instead)
		}
	}
	switch g, found := groundOf(c.dir); {
	case c.idle && c.role != encryption:
		return ""
	case c.isFileOfOthers():
		g, _ := groundOf(c.path)
		return fmt.Sprintf("%s is no socket, and %s: give another path, such as %s", legible(c.path), g.why, c.instead)
	case found && (c.effect != "" || c.shuns(g)):
		return fmt.Sprintf("%s, and %s: give it a directory of its own, such as %s", c.lies(g), g.why, c.instead)
	case lasting && within(canonical(c.dir), "/run") && k.effect != hides:
		return fmt.Sprintf("%s is gone after each boot, and nothing starts without it: give a path that stays, such as %s", legible(c.path), c.instead)
	case c.effect == "":
		return ""
	}
	if g, found := groundIn(c.dir); found {
		return fmt.Sprintf("%s %s, and has %s in it; %s: give it a directory of its own, such as %s", c.subject(), c.effect, g.path, g.why, c.instead)
	}
	for _, own := range k.own {
		if c.apiServer && (canonical(c.dir) == own || within(own, canonical(c.dir))) {
			return fmt.Sprintf("%s: %s is mounted into kube-apiserver by %s itself, and the same mount path twice is refused: give it a directory of its own, such as %s",
				legible(c.path), own, k.Name, c.instead)
		}
	}
	if k.Socket != "" && c.role == sockets && !within(c.dir, kopsMounts) {
		return fmt.Sprintf("%s: kOps shows kube-apiserver only what is in %s, so put the socket into a directory there: %s", legible(c.path), kopsMounts, c.instead)
	}
	return ""
}

// isFileOfOthers reports whether a socket would be a known file, which nothing mounts.
func (c claim) isFileOfOthers() bool {
	g, found := groundOf(c.path)
	return c.role == sockets && c.effect == "" && found && g.path == canonical(c.path)
}

// shuns reports whether a ground is no place for a claim although nothing is mounted.
func (c claim) shuns(g ground) bool {
	switch c.role {
	case sockets, encryption, settings:
		return g.read && c.role != sockets || g.whole && !g.work
	case files, program:
	}
	return g.read
}

// telling says what a file is by its name, "" where that tells nothing: what lies in a
// ground may be a directory of ours, and is none where it is a key or a socket.
func telling(base string) string {
	switch {
	case slices.Contains([]string{"shadow", "shadow-", "gshadow", "gshadow-", "passwd", "passwd-", "sudoers", "krb5.keytab"}, base):
		return "is the node's own"
	case slices.Contains([]string{".key", ".keytab", ".kubeconfig"}, path.Ext(base)):
		return "has a key in it"
	case path.Ext(base) == ".conf" || base == "k3s.yaml" || base == "rke2.yaml":
		return "is a kubeconfig or the node's own"
	case path.Ext(base) == ".sock":
		return "is a socket: whoever reaches it does what its program can"
	}
	return ""
}

// lies says what a ground has to do with a claim.
func (c claim) lies(g ground) string {
	if c.effect == "" || canonical(c.dir) != g.path {
		return legible(c.path) + " lies in " + g.path
	}
	return c.subject() + " " + c.effect
}

// subject is what an effect is on: the path itself, or the directory that it is in.
func (c claim) subject() string {
	if c.effect == "" || c.dir == c.path {
		return legible(c.path)
	}
	return legible(c.path) + ": its directory " + legible(c.dir)
}

// givesAway says who is given what another claim is for, by the directory of this.
func (c claim) givesAway(other claim) string {
	switch {
	case c.effect == mountsWhole && other.effect == mountsWhole && c.role == other.role && c.dir != other.dir && canonical(c.dir) == canonical(other.dir):
		return "the same directory would be mounted twice, by two names"
	case c.idle || other.idle || c.role == other.role || c.effect == "" || other.role == program:
		return ""
	case c.effect == hides: // each is a volume of its own
		if c.dir == other.dir && (c.apiServer && other.apiServer || c.role != encryption && other.role != encryption) {
			return "two volumes at one mount path are refused"
		}
		return ""
	case !within(canonical(other.path), canonical(c.dir)):
		return ""
	case other.role == encryption:
		return "the program would be given the EncryptionConfiguration, which may have keys in it"
	case other.role != sockets && (c.role == sockets || c.role == encryption):
		return "kube-apiserver would be given what only the program needs"
	}
	return ""
}
