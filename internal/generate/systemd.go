package generate

import (
	"fmt"
	"strings"
)

// systemd writes drop-ins for the units of deploy/systemd. An empty assignment
// takes back what the unit says.
//
// https://www.freedesktop.org/software/systemd/man/latest/systemd.service.html#Command%20lines
func (o *Options) systemd() ([]File, error) {
	var service, socket strings.Builder
	service.WriteString(comment(fmt.Sprintf(`Drop-in for aws-encryption-provider.service, on every control plane node:
/etc/systemd/system/aws-encryption-provider.service.d/10-configuration.conf
Then: systemctl daemon-reload && systemctl restart aws-encryption-provider

Check:
- %s is the program
- %s is free on the node: health paths and metrics
%s`, o.Program, o.healthAddress(true), o.unitChecks())) + "\n[Service]\nExecStart=\n")
	words := []string{o.Program}
	words = append(words, o.argsAt(true)...)
	for i, word := range words {
		words[i] = unitWord(strings.ReplaceAll(word, "$", "$$"))
	}
	service.WriteString("ExecStart=" + strings.Join(words, " \\\n  ") + "\n")
	if seconds := o.stopSeconds(unitStop); seconds != nil {
		fmt.Fprintf(&service, "TimeoutStopSec=%d\n", seconds)
	}
	for _, env := range o.Env {
		service.WriteString("Environment=" + unitWord(env) + "\n")
	}
	for _, dir := range o.socketDirs() {
		if dir = unitPath(dir); dir != "/run/kmsplugin" {
			service.WriteString("ReadWritePaths=" + unitWord("-"+dir) + "\n")
		}
	}
	if group := o.Config.Socket.Group; group >= 0 {
		fmt.Fprintf(&service, "# For a socket that the socket unit does not have: the program gives it the group.\nSupplementaryGroups=%d\nSystemCallFilter=@chown\n", group)
	}

	shared := o.Config.Socket.Mode.Perm()&0o077 != 0 // whom it lets in has to reach it
	checks := ""
	if o.Config.Socket.Group >= 0 {
		checks += fmt.Sprintf("\n- the node has a group %d (getent group): else systemd makes no socket", o.Config.Socket.Group)
	}
	if shared {
		checks += "\n- a directory of a socket that is there already has mode 0755, too: systemd changes none"
	}
	socket.WriteString(comment(`Drop-in for aws-encryption-provider.socket, where sockets are kept by systemd:
/etc/systemd/system/aws-encryption-provider.socket.d/10-configuration.conf
Then: systemctl daemon-reload && systemctl restart aws-encryption-provider.socket

Check:
- the sockets are those of the EncryptionConfiguration`+checks) + "\n[Socket]\nListenStream=\n")
	for _, p := range o.Config.Providers {
		socket.WriteString("ListenStream=" + strings.ReplaceAll(unitPath(p.Listen), "%", "%%") + "\n")
	}
	fmt.Fprintf(&socket, "SocketMode=%04o\n", o.Config.Socket.Mode.Perm())
	if o.Config.Socket.Group >= 0 {
		fmt.Fprintf(&socket, "SocketGroup=%d\n", o.Config.Socket.Group)
	}
	if shared {
		socket.WriteString("DirectoryMode=0755\n")
	}
	return []File{
		{Name: "aws-encryption-provider.service.d/10-configuration.conf", Text: service.String()},
		{Name: "aws-encryption-provider.socket.d/10-configuration.conf", Text: socket.String()},
	}, nil
}

// unitPath is a path as units have it: systemd warns of /var/run, which is a link.
func unitPath(path string) string {
	if rest, ok := strings.CutPrefix(path, "/var/run/"); ok {
		return "/run/" + rest
	}
	return path
}

func (o *Options) unitChecks() string {
	if o.File == nil {
		return ""
	}
	return "- " + o.FileAt + " is on the node, and readable for the unit's user"
}

// unitWord quotes a word of a command line, a list or an assignment. A $ is special in
// command lines only.
func unitWord(word string) string {
	word = strings.ReplaceAll(word, "%", "%%")
	if !strings.ContainsAny(word, " \t\n\"'\\;") {
		return word
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(word) + `"`
}
