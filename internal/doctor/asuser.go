package doctor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/inquiry"
)

// nobodysGroup is a group that no file has: for a user whose groups are not known.
const nobodysGroup = 1<<32 - 2

// A User is as whom sockets are asked.
type User struct {
	UID    uint32
	Groups []uint32 // the first is the primary one; nil: those of the user's entry in passwd
}

// groups are the user's, given or looked up, and whether any are known.
func (u *User) groups() (groups []uint32, known bool) {
	if u.Groups != nil {
		return u.Groups, true
	}
	entry, err := user.LookupId(strconv.FormatUint(uint64(u.UID), 10))
	if err != nil {
		return nil, false
	}
	ids, _ := entry.GroupIds() // the primary one is known without
	for _, id := range append([]string{entry.Gid}, ids...) {
		if gid, err := strconv.ParseUint(id, 10, 32); err == nil && !slices.Contains(groups, uint32(gid)) {
			groups = append(groups, uint32(gid))
		}
	}
	return groups, true
}

// An identity is what a thread can become, to try what another process may do.
type identity struct {
	uid    uint32
	groups []uint32 // the first is the primary one
	bound  uint64   // bits of the capabilities that it may have at most
}

func newIdentity(uid uint32, groups []uint32) identity {
	if len(groups) == 0 {
		groups = []uint32{nobodysGroup}
	}
	return identity{uid, groups, math.MaxUint64}
}

// as runs work as somebody else, in a thread of its own. work must not start
// goroutines that count on it. The error is that of becoming somebody else.
func (i identity) as(work func()) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with what it was made
		err := i.become()
		if err == nil {
			work()
		}
		done <- err
	}()
	return <-done
}

// become changes the calling thread alone: users, groups and capabilities are a
// thread's, and only the C library's functions change those of all.
//
// https://man7.org/linux/man-pages/man7/nptl.7.html
func (i identity) become() error {
	uid, gid := uintptr(i.uid), uintptr(i.groups[0])
	for _, call := range []struct {
		name          string
		trap, a, b, c uintptr
	}{
		{"setgroups", unix.SYS_SETGROUPS, uintptr(len(i.groups)), uintptr(unsafe.Pointer(&i.groups[0])), 0}, //nolint:gosec // the kernel reads it at once
		{"setresgid", unix.SYS_SETRESGID, gid, gid, gid},
		{"setresuid", unix.SYS_SETRESUID, uid, uid, uid},
	} {
		if _, _, errno := syscall.RawSyscall(call.trap, call.a, call.b, call.c); errno != 0 {
			return fmt.Errorf("%s: %w", call.name, errno)
		}
	}
	return i.drop()
}

// drop takes away the capabilities beyond the bound. Users other than root have lost
// theirs by then.
func (i identity) drop() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // of the calling thread
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	for n := range data {
		bound := uint32(i.bound >> (32 * n)) //nolint:gosec // half of the bits
		data[n] = unix.CapUserData{Effective: data[n].Effective & bound, Permitted: data[n].Permitted & bound}
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

// asTheAPIServer asks each socket as the user that the API server runs as, which would
// itself find out at its start.
func (x *examination) asTheAPIServer(ctx context.Context, g *Group) {
	if x.As == nil {
		return
	}
	groups, known := x.As.groups()
	if !known {
		g.skipped(fmt.Sprintf("no groups of uid %d are known: it has no entry in passwd; --as-gid gives those of its pod (runAsGroup, supplementalGroups, fsGroup)", x.As.UID))
	}
	c := caller{uid: x.As.UID, groups: groups, who: newIdentity(x.As.UID, groups)}
	if int(x.As.UID) == os.Geteuid() && x.As.Groups == nil {
		c.itself = true
	}
	for _, p := range x.Config.Providers {
		x.reaches(ctx, g, p, c)
	}
}

// A caller is who asks a socket.
type caller struct {
	uid    uint32
	groups []uint32
	who    identity
	itself bool // it is who looks: nobody has to be become
}

func (c caller) as(work func()) error {
	if c.itself {
		work()
		return nil
	}
	return c.who.as(work)
}

// dial connects as the caller, whom the other side sees from then on.
func (c caller) dial(ctx context.Context, path string) (conn net.Conn, err error) {
	if failed := c.as(func() { conn, err = (&net.Dialer{}).DialContext(ctx, "unix", path) }); failed != nil {
		return nil, failed
	}
	return conn, err
}

// reaches tries the way to a socket, and then the socket.
func (x *examination) reaches(ctx context.Context, g *Group, p config.Provider, c caller) {
	x.asks(fmt.Sprintf("%s as uid %d", p.Listen, c.uid))
	barred, err := c.barred(p.Listen)
	if err != nil {
		g.tell(NotPermitted, Failure, fmt.Sprintf("%s cannot be asked as uid %d", p.Listen, c.uid), asUser(err.Error()),
			"run doctor as root, with the right to change its user (CAP_SETUID, CAP_SETGID)")
		return
	}
	for _, s := range barred {
		g.advise(NoWay, c.cannot(s), "", c.cure(s))
	}
	refused := x.refuses(g, p, c)
	served := slices.ContainsFunc(x.served, func(o config.Provider) bool { return o.Name == p.Name })
	switch {
	case len(barred) > 0 || refused:
	case !served:
		g.skipped(fmt.Sprintf("%s: whether uid %d is answered is not tried, since nobody serves it; nothing that is there already keeps it out%s", p.Listen, c.uid, x.toCome(p)))
	default:
		x.answered(ctx, g, p, c)
	}
}

// barred are the steps on the way that the caller may not pass.
func (c caller) barred(path string) (barred []inquiry.Step, err error) {
	way := &inquiry.Way{}
	if !strings.HasPrefix(path, "@") {
		way, _ = inquiry.LookAtWay(path) // what is not there yet is in nobody's way
	}
	defer way.Close()
	err = c.as(func() { barred = way.Barred() })
	return barred, err
}

// refuses tells where this configuration keeps the caller out by name.
func (x *examination) refuses(g *Group, p config.Provider, c caller) bool {
	allowed := x.Config.Socket.AllowUIDs
	if len(allowed) == 0 || slices.Contains(allowed, c.uid) {
		return false
	}
	g.advise(NoWay, fmt.Sprintf("%s: this configuration does not let uid %d in", p.Listen, c.uid), fmt.Sprintf("--allow-uid lets in %s alone", listed(allowed)), c.allowed())
	return true
}

func (c caller) allowed() string {
	return fmt.Sprintf("name uid %d too, by --allow-uid=%[1]d or in socket.allowUIDs%s", c.uid, takenOver)
}

// toCome is what the program would make of a socket, for whoever is not its user.
func (x *examination) toCome(p config.Provider) string {
	if strings.HasPrefix(p.Listen, "@") {
		return ""
	}
	text := fmt.Sprintf("; the program makes it with mode %04o", x.Config.Socket.Mode)
	if gid := x.Config.Socket.Group; gid >= 0 {
		text += fmt.Sprintf(" and group %d", gid)
	}
	if dir := filepath.Dir(p.Listen); existing(p.Listen) != dir {
		text += fmt.Sprintf(", and %s for its own user alone", dir)
	}
	return text
}

// answered asks for Status as the caller.
func (x *examination) answered(ctx context.Context, g *Group, p config.Provider, c caller) {
	conn, err := c.dial(ctx, p.Listen)
	if err != nil {
		g.advise(NoWay, fmt.Sprintf("%s cannot be opened by uid %d", p.Listen, c.uid), innermost(err), "look at access control lists and security modules (SELinux, AppArmor) on the way to it")
		return
	}
	_ = conn.Close()
	f := inquiry.AskAs(ctx, x.Timeout, func(ctx context.Context) (net.Conn, error) { return c.dial(ctx, p.Listen) })
	switch {
	case f == nil:
		g.ok(fmt.Sprintf("%s answers uid %d, groups %s", p.Listen, c.uid, c.groupsText()))
	case f.Code == inquiry.TurnedAway.Info().ID:
		g.advise(NoWay, fmt.Sprintf("%s: the running plugin does not let uid %d in", p.Listen, c.uid), "it closes the connection at once: its --allow-uid does not name the user, or 256 connections are open",
			"where its log says that --allow-uid does not name the user: "+c.allowed())
	default:
		g.skipped(fmt.Sprintf("%s: uid %d may connect, and gets no answer to Status (%s)", p.Listen, c.uid, f.Cause))
	}
}

func (c caller) groupsText() string {
	if len(c.groups) == 0 {
		return "none"
	}
	return listed(c.groups)
}

func listed(ids []uint32) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(ids), "[]"), " ", ", ")
}

func (c caller) cannot(s inquiry.Step) string {
	if s.Socket {
		return fmt.Sprintf("uid %d cannot write to %s", c.uid, s)
	}
	return fmt.Sprintf("uid %d cannot enter %s", c.uid, s)
}

// takenOver is how a running program takes a change of who may connect.
const takenOver = "; a running program takes it over from its file of --config without a restart, and with flags at its next planned restart" + oneNode

// cure is what lets the caller pass. It opens no more than is needed: a directory to be
// entered, and not to be listed; a socket to one group.
func (c caller) cure(s inquiry.Step) string {
	ofGroup := slices.Contains(c.groups, s.GID)
	switch {
	case s.Socket && ofGroup:
		return fmt.Sprintf("let its group in, which uid %d is in: --socket-mode=0660 (socket.mode; SocketMode=0660 in a drop-in of aws-encryption-provider.socket where systemd makes it)%s", c.uid, takenOver)
	case s.Socket && len(c.groups) > 0:
		return fmt.Sprintf("give it a group that uid %d is in: --socket-mode=0660 --socket-group=%d (socket.mode, socket.group; SocketMode=0660 and SocketGroup=%[2]d in a drop-in of aws-encryption-provider.socket where systemd makes it)%s", c.uid, c.groups[0], takenOver)
	case s.Socket:
		return "give it a group that the API server is in: --socket-mode=0660 --socket-group=GID (socket.mode, socket.group), and look again with --as-gid=GID" + takenOver
	case s.UID == c.uid:
		return "let its owner enter it: chmod u+x " + s.Path
	case ofGroup:
		return "let its group enter it: chmod g+x " + s.Path + lasting
	}
	return "let others enter it, and not list it: chmod o+x " + s.Path + "; who may ask is still the socket's own mode and group to say" + lasting
}

// lasting is what keeps a directory's mode where it is made again after a reboot.
const lasting = "; where systemd makes it, DirectoryMode=0755 in a drop-in of aws-encryption-provider.socket keeps it so"

// innermost is the kernel's own word for a failure.
func innermost(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return err.Error()
}
