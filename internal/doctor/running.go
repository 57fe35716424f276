package doctor

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/inquiry"
)

var codeForm = regexp.MustCompile(`KMS[0-9]{4}`)

// running asks the plugin that serves, and compares what it runs with: a
// configuration that is right by itself may be wrong for one node of several.
func (x *examination) running(ctx context.Context, g *Group) {
	process, _ := inquiry.AskProcess(ctx, x.Config.Health.Address, x.Timeout) // nil: nothing is known of it
	switch {
	case len(x.served) > 0:
	case x.moved(g, process):
	case slices.Contains(x.known, NotPermitted.Info().ID):
		g.skipped("not checked: this user may not ask who serves the sockets of this configuration")
	default:
		g.skipped("not checked: no process serves a socket of this configuration. " + x.beforeTheStart())
	}
	for _, p := range x.served {
		x.asks(p.Listen)
		r := inquiry.Ask(ctx, inquiry.Question{Socket: p.Listen, Timeout: x.Timeout})
		silent := r.V1Version == "" && r.V2Version == "" && r.KeyID == ""
		served := process.On(func(socket string) bool { return sameSocket(p.Listen, socket) })
		switch {
		case silent && x.keptOut():
			g.found(NotPermitted, p.Listen+" may not be asked", fmt.Sprintf("this configuration lets users %v in, and doctor runs as %d", x.Config.Socket.AllowUIDs, os.Geteuid()))
			continue
		case silent:
			g.found(PluginSilent, p.Listen+" is not answered by a KMS plugin", first(r.Problems))
			continue
		}
		c := x.comparison(p, r.KeyID, process, served)
		if len(r.Problems) > 0 {
			x.ill(g, c, r.Problems)
		} else {
			g.ok(fmt.Sprintf("%s is well: %s", p.Listen, r.KeyID))
			c.tell(g)
		}
		if served == nil {
			g.skipped(fmt.Sprintf("%s: whether it reads with more keys than this configuration is not known: nothing of it at the health port %s", p.Listen, x.Config.Health.Address))
		}
	}
	x.process(g, process)
}

// moved tells which sockets a process at the health port of this configuration serves
// where the configuration has none of them, and reports whether there are any: a
// process that writes with one of its keys is what it would replace.
func (x *examination) moved(g *Group, process *inquiry.Process) bool {
	if process == nil || !slices.ContainsFunc(process.Providers, x.writesOurs) {
		return false
	}
	return x.lacking(g, process)
}

// lacking tells the sockets of a process that no provider of the configuration has.
func (x *examination) lacking(g *Group, process *inquiry.Process) (told bool) {
	for _, s := range process.Providers {
		listed := slices.ContainsFunc(x.Config.Providers, func(p config.Provider) bool { return sameSocket(p.Listen, s.Socket) })
		if s.Socket != "" && !listed {
			g.found(SocketLacking, "no provider of this configuration is at "+s.Socket, "it writes with "+s.Writes)
			told = true
		}
	}
	return told
}

func (x *examination) writesOurs(s inquiry.Served) bool {
	return slices.ContainsFunc(x.Config.Providers, func(p config.Provider) bool {
		return slices.ContainsFunc(p.Keys, func(k config.Key) bool { return k.Key == s.Writes })
	})
}

// beforeTheStart is what to compare where nothing runs here and other nodes may.
func (x *examination) beforeTheStart() string {
	var keys []string
	for _, p := range x.Config.Providers {
		keys = append(keys, x.writeKey(p).name)
	}
	return "Before the first start on this node, look at the nodes that run already: they have to list " + strings.Join(keys, ", ") +
		", with which this one will write (aws-encryption-provider status and /readyz?verbose there name their keys)"
}

// keptOut reports whether the program closes connections of this user at once.
func (x *examination) keptOut() bool {
	allowed := x.Config.Socket.AllowUIDs
	return len(allowed) > 0 && !slices.Contains(allowed, uint32(os.Geteuid())) //nolint:gosec // a user id
}

// process tells what is of the process as a whole. Only one that serves a socket of
// this configuration is meant.
func (x *examination) process(g *Group, process *inquiry.Process) {
	ours := process.On(func(socket string) bool {
		return slices.ContainsFunc(x.served, func(p config.Provider) bool { return sameSocket(p.Listen, socket) })
	})
	if ours == nil {
		return
	}
	if process.Refused != "" {
		g.found(FileNotTaken, "the running plugin has not taken over "+process.File, process.Refused)
	}
	x.lacking(g, process)
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// ill tells the first problem: a plugin that is not well has the same cause for
// all. One that was found already is not told again. Whoever mends it by this
// configuration has to know what else that would change.
func (x *examination) ill(g *Group, c comparison, problems []string) {
	code := codeForm.FindString(strings.Join(problems, "\n"))
	if code != "" && slices.Contains(x.known, code) {
		g.skipped(fmt.Sprintf("%s: the plugin is not well either, by the same %s", c.provider.Listen, code))
		c.tell(g)
		return
	}
	next := PluginIll.Info().Next
	if d := c.written(); d.next != "" {
		next += "; this configuration is no cure on this node alone: " + d.next
	}
	g.advise(PluginIll, c.provider.Listen+" reports a problem", first(problems), next)
	c.lacking(g)
}
