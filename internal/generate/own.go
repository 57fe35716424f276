package generate

import (
	"path"
	"slices"
	"strings"
)

// What goes into a pod has to be ours, and not only no known directory of others:
// nobody can list what all nodes have. A directory is ours if one part of its path
// is named for this program or for what it is about, and lies where people put
// directories of one's own. Whatever such a directory has in it was put there for
// this. [grounds] say of other ones why they are refused.

// isOurs reports whether a directory, or a file by itself, is ours for a role.
func isOurs(at string, r role) bool {
	at = canonical(at)
	for ; path.Dir(at) != at; at = path.Dir(at) {
		if named(path.Base(at), r) && isHome(path.Dir(at)) {
			return true
		}
	}
	return false
}

// named reports whether a name says that a directory is for a role. One that is
// called encryption has the EncryptionConfiguration, which the program must not see;
// one that is called aws may have credentials, which kube-apiserver must not see.
func named(name string, r role) bool {
	words := strings.FieldsFunc(strings.ToLower(name), func(c rune) bool { return strings.ContainsRune("-_.+=@~ ", c) })
	joined := strings.Join(words, "")
	switch {
	case r == encryption:
		return strings.Contains(joined, "kms") || strings.Contains(joined, "encrypt") || slices.Contains(words, "enc")
	case strings.Contains(joined, "encryptionconf"):
		return false
	case strings.Contains(joined, "kms"), strings.Contains(joined, "encryptionprovider"):
		return true
	}
	return (r == files || r == settings) && slices.Contains(words, "aws")
}

// isHome reports whether a directory is one in which others are put. Of the trees
// that every node has, those are few. What an organization adds, below /opt, /srv and
// /mnt or beside them, may be arranged as it likes.
func isHome(dir string) bool {
	if slices.Contains(homes(), dir) {
		return true
	}
	g, found := groundOf(dir)
	return !isNodes(dir) && (!found || !g.whole)
}

// isNodes reports whether a path lies in a tree that every node has.
func isNodes(at string) bool {
	top, _, _ := strings.Cut(strings.TrimPrefix(at, "/"), "/")
	return slices.ContainsFunc(nodesTrees(), func(tree string) bool { return strings.EqualFold(tree, top) })
}

// homes are those of the trees of every node.
func homes() []string {
	return []string{
		"/", "/etc", "/etc/kubernetes", "/etc/opt", "/etc/pki", "/etc/rancher", "/etc/rancher/k3s", "/etc/rancher/rke2", "/etc/srv/kubernetes", "/etc/ssl",
		"/home/kubernetes", "/run", "/srv/kubernetes", "/srv/kubernetes/kube-apiserver", "/usr/local", "/usr/local/etc", "/usr/local/lib", "/usr/local/share",
		"/var", "/var/lib", "/var/lib/kubernetes", "/var/local", "/var/opt",
	}
}

// nodesTrees are the top directories in which only homes count.
//
// https://refspecs.linuxfoundation.org/FHS_3.0/fhs/index.html
func nodesTrees() []string {
	return []string{
		"bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "lost+found", "nix", "proc", "root", "run", "sbin", "snap", "sys", "sysroot", "tmp", "usr", "var",
	}
}

// isOwnFile reports whether a file is an EncryptionConfiguration by its own name, in
// a directory that has other things too. It may be mounted by itself where people
// have it so. Where nothing is mounted, there are more such directories.
func isOwnFile(at string, mounted bool) bool {
	dirs := []string{"/etc/kubernetes"}
	if !mounted {
		dirs = append(dirs, "/etc/rancher/k3s", "/etc/rancher/rke2", "/etc/srv/kubernetes", "/srv/kubernetes/kube-apiserver", "/var/lib/kubernetes")
	}
	return slices.Contains(configExtensions(), path.Ext(at)) && named(path.Base(at), encryption) && slices.Contains(dirs, canonical(path.Dir(at)))
}

func configExtensions() []string { return []string{".yaml", ".yml", ".json"} }

// isSocket reports whether a path may be that of a socket where nothing is mounted. At
// a desk one lies where its owner may write.
func isSocket(at string) bool {
	g, found := groundOf(path.Dir(at))
	return isOurs(at, sockets) || strings.Contains(path.Base(at), "sock") || within(canonical(at), "/run") || found && g.work || !isNodes(at)
}

// isPublic reports whether the program may be shown what is not ours: what everybody
// on a node may read and programs need, where identities come from, and, by --mount,
// single programs, such as credential helpers.
func (c claim) isPublic() bool {
	at := canonical(c.dir)
	single := slices.Contains([]string{"/etc/localtime", "/etc/timezone", "/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/resolv.conf"}, at)
	whole := slices.ContainsFunc([]string{"/usr/share/zoneinfo", "/run/spire", "/run/secrets-store"}, func(dir string) bool { return within(at, dir) })
	helper := c.flag == mountFlag && slices.Contains([]string{"/usr/bin", "/usr/local/bin", "/opt/bin"}, path.Dir(at))
	return c.role == files && (single || whole || helper)
}

// isProgram reports whether a unit may start a file: it lies where programs do, or is
// ours by its name.
func isProgram(at string) bool {
	return slices.Contains([]string{"bin", "sbin", "libexec"}, path.Base(path.Dir(at))) || isOurs(at, files)
}

// isAllowed reports whether a claim may be as it is, by the rule above. A sidecar's
// volumes show nothing of a host.
func (c claim) isAllowed() bool {
	switch {
	case c.role == program:
		return isProgram(c.path)
	case c.role == encryption && isOwnFile(c.path, c.effect != ""):
		return true
	case c.role == encryption, c.effect == hides:
		return isOurs(c.dir, encryption)
	case c.effect == "" && c.role == sockets:
		return isSocket(c.path)
	case c.effect == "":
		return c.role != settings || isOurs(c.path, settings)
	case c.isPublic(), c.flag == mountFlag && isOurs(path.Dir(c.path), encryption): // one thing in ours
		return true
	}
	return isOurs(c.dir, c.role)
}

// better is a path like a claim's that is ours.
func (c claim) better() string {
	dir, name := path.Dir(c.path), "aws-encryption-provider"
	if c.role == encryption {
		name = "encryption"
	}
	odd := c.role == encryption && !slices.Contains(configExtensions(), path.Ext(c.path))
	if odd || c.role == program || !isHome(canonical(dir)) {
		return c.instead
	}
	return path.Join(dir, name, path.Base(c.path))
}
