package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
	"sigs.k8s.io/aws-encryption-provider/internal/inquiry"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// othersWrite is the permission bit of those who are neither owner nor group.
const othersWrite = 0o002

func (x *examination) sockets(ctx context.Context, g *Group) {
	for _, p := range x.Config.Providers {
		isFile := !strings.HasPrefix(p.Listen, "@")
		found, err := daemon.LookAtSocket(ctx, p.Listen)
		other, isOther := errors.AsType[*daemon.NotSocketError](err)
		switch {
		case isOther:
			g.found(PathTaken, p.Listen+" can be made, or is there", other.What)
			continue
		case err != nil:
			g.found(PathUnusable, p.Listen+" can be made, or is there", err.Error())
			continue
		}
		if isFile && !directory(g, p.Listen) {
			continue
		}
		switch {
		case found.Live:
			g.ok(fmt.Sprintf("%s is served%s", p.Listen, byWhom(found.PID)))
			if isFile {
				x.access(g, p.Listen)
			}
			x.served = append(x.served, p)
		case isFile && !writable(g, p.Listen):
		case found.Exists:
			g.found(DeadSocket, p.Listen+" is served, or not there", "")
		default:
			g.ok(p.Listen + " is free")
		}
	}
}

func byWhom(pid int) string {
	if pid == 0 {
		return " (by a process whose pid cannot be seen from here)"
	}
	return fmt.Sprintf(" by the process with pid %d", pid)
}

// existing is the directory that a socket is in, or the first above that is there:
// the program makes what is missing, for its own user alone.
func existing(path string) string {
	dir := filepath.Dir(path)
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// directory says whether a socket can be in its directory at all.
func directory(g *Group, path string) bool {
	dir := existing(path)
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		g.found(PathUnusable, path+" can be made, or is there", err.Error())
		return false
	case !info.IsDir():
		g.found(PathUnusable, path+" can be made, or is there", dir+" is no directory")
		return false
	case info.Mode()&othersWrite != 0 && info.Mode()&fs.ModeSticky == 0:
		g.found(LooseDirectory, dir+" is written to by its owner alone", "mode "+info.Mode().String())
	}
	return true
}

// writable says whether this user may make the socket, which matters as long as
// nobody serves it.
func writable(g *Group, path string) bool {
	dir := existing(path)
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		g.found(PathUnusable, path+" can be made, or is there", fmt.Sprintf("user %d may not write to %s: %v", os.Geteuid(), dir, err))
		return false
	}
	return true
}

// access compares a served socket with what this configuration would make.
func (x *examination) access(g *Group, path string) {
	info, err := os.Lstat(path)
	if err != nil {
		return // gone since
	}
	want := x.Config.Socket
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case info.Mode().Perm() != want.Mode:
		g.found(SocketAccess, path+" has the right mode and group", fmt.Sprintf("mode %04o, want %04o", info.Mode().Perm(), want.Mode))
	case ok && want.Group >= 0 && int(owner.Gid) != want.Group:
		g.found(SocketAccess, path+" has the right mode and group", fmt.Sprintf("group %d, want %d", owner.Gid, want.Group))
	case ok:
		g.ok(fmt.Sprintf("%s: mode %04o, owner %d, group %d", path, info.Mode().Perm(), owner.Uid, owner.Gid))
	}
}

func (x *examination) running(ctx context.Context, g *Group) {
	if len(x.served) == 0 {
		g.skipped("not checked: no process serves a socket of this configuration")
		return
	}
	for _, p := range x.served {
		r := inquiry.Ask(ctx, inquiry.Question{Socket: p.Listen, Timeout: x.Timeout})
		switch {
		case r.V1Version == "" && r.V2Version == "" && r.KeyID == "":
			g.found(PluginSilent, p.Listen+" answers", first(r.Problems))
		case len(r.Problems) > 0:
			x.ill(g, p.Listen, r.Problems)
		default:
			g.ok(fmt.Sprintf("%s is well: %s", p.Listen, r.KeyID))
			x.compare(g, p, r.KeyID)
		}
	}
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// ill tells the first problem: a plugin that is not well has the same cause for
// all. One that was found already is not told again.
func (x *examination) ill(g *Group, socket string, problems []string) {
	code := regexp.MustCompile(`KMS[0-9]{4}`).FindString(strings.Join(problems, "\n"))
	if code != "" && slices.Contains(x.known, code) {
		g.skipped(fmt.Sprintf("%s: the plugin is not well either, by the same %s", socket, code))
		return
	}
	g.found(PluginIll, socket+" is well", first(problems))
}

// compare says whether the plugin that runs writes with the key of this
// configuration. An alias is compared by what it stands for.
func (x *examination) compare(g *Group, p config.Provider, keyID string) {
	runs := keyref.ParseState(keyID)
	text := p.Listen + " runs with this configuration"
	if want := keyref.ContextHash(p.Keys[0].EncryptionContext); runs.Context != want {
		g.found(PluginOther, text, "its encryption context is another one")
		return
	}
	for _, k := range x.keys {
		if !k.writes || k.provider.Name != p.Name || k.failure != nil {
			continue
		}
		ref, err := keyref.Parse(k.sealed.KeyARN)
		if err == nil && ref.KeyID() != runs.Key {
			g.found(PluginOther, text, fmt.Sprintf("it writes with %s, this configuration with %s", runs.Key, ref.KeyID()))
		}
	}
}
