package encryptionconfig

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// warnings are what kube-apiserver takes and nobody can have meant.
func (c *Configuration) warnings() Mistakes {
	var m Mistakes
	told, wrong := c.plainSecrets()
	if wrong != "" {
		m.add(Plain, told, "%s", wrong)
	}
	m = append(m, c.idleNames(told)...)
	for i, r := range c.Resources {
		for j, p := range r.Providers {
			if p.KMS == nil {
				continue
			}
			path := below(element(below(element("resources", i), "providers"), j), "kms")
			if wrong := cmp.Or(unfilled(p.KMS.Endpoint), strayed(p.KMS)); wrong != "" {
				m.add(Strayed, below(path, "endpoint"), "%s", wrong)
			}
			if wrong := unfilled(p.KMS.Name); wrong != "" {
				m.add(Unread, below(path, "name"), "%s", wrong)
			}
		}
	}
	return m
}

// strayed says where an endpoint leads that looks as if it led elsewhere.
func strayed(k *KMS) string {
	u, err := url.Parse(k.Endpoint)
	if err != nil || u.Scheme != "unix" {
		return ""
	}
	socket := k.Socket()
	switch {
	case strings.TrimSpace(k.Endpoint) != k.Endpoint:
		return fmt.Sprintf("is %s, with a blank at its end that belongs to the path%s", Quote(k.Endpoint), meant(strings.TrimSpace(k.Endpoint)))
	case len(socket) > 1 && strings.HasSuffix(socket, "/"):
		return fmt.Sprintf("is %s, which is a directory and no socket%s", Quote(k.Endpoint), meant(strings.TrimRight(k.Endpoint, "/")))
	case socket == "" && u.Opaque != "":
		return fmt.Sprintf("is %s, which leads to no socket%s", Quote(k.Endpoint), meant("unix:///"+strings.TrimLeft(u.Opaque, "/")))
	case socket == "":
		return fmt.Sprintf("is %s, which leads to no socket: write such as unix:///var/run/kmsplugin/socket.sock", Quote(k.Endpoint))
	case u.Host != "":
		return fmt.Sprintf("is %s, which leads to %s%s", Quote(k.Endpoint), Quote(socket), meant("unix:///"+u.Host+u.Path))
	}
	return ""
}

// plainSecrets says why no Secret is encrypted, and "" where one is. Identity before a
// provider that encrypts is the first step of a migration, or deliberate; alone it
// keeps Secrets from every other entry: kube-apiserver takes the first that names them.
func (c *Configuration) plainSecrets() (path, wrong string) {
	secrets := resource{name: "secrets"}
	var names, near []string
	for i, r := range c.Resources {
		for j, name := range r.Resources {
			if resourceOf(name).covers(secrets) {
				return c.shadowed(i, secrets)
			}
			names = append(names, name)
			if likeSecrets(name) {
				near = append(near, name)
				if path == "" {
					path = element(below(element("resources", i), "resources"), j)
				}
			}
		}
	}
	if len(near) > 0 {
		return path, fmt.Sprintf("nothing encrypts Secrets: %s is another resource, did you mean secrets?", Quote(near[0]))
	}
	for i, name := range names {
		names[i] = Shown(name)
	}
	if len(names) > 4 {
		names = append(names[:4:4], "...")
	}
	return element("resources", 0), fmt.Sprintf("nothing encrypts Secrets: no entry has secrets, only %q", strings.Join(names, ", "))
}

// shadowed says what is wrong where entry i, the first to cover a resource, leaves it to
// identity alone: whether another entry encrypts it, or something else, or nothing does.
func (c *Configuration) shadowed(i int, of resource) (path, wrong string) {
	if slices.ContainsFunc(c.Resources[i].Providers, encrypts) {
		return "", ""
	}
	for j, r := range c.Resources {
		if !slices.ContainsFunc(r.Providers, encrypts) {
			continue
		}
		path := below(element("resources", i), "providers")
		if slices.ContainsFunc(r.Resources, func(name string) bool { return resourceOf(name).covers(of) }) {
			return path, fmt.Sprintf(
				"only identity is here, and the first entry that covers %s counts: %s encrypts, and is used only to read; put it first, once every API server reads with it",
				of.name, element("resources", j))
		}
		return path, fmt.Sprintf("only identity is here, so %s are stored in the clear, while %s encrypts others", of.name, element("resources", j))
	}
	return below(element("resources", i), "providers"), fmt.Sprintf("only identity is here, and nothing in the file encrypts: %s are stored in the clear", of.name)
}

func encrypts(p Provider) bool { return p.Identity == nil }

// likeSecrets reports whether a resource's name was probably meant as secrets:
// another spelling, or a version or group, which secrets have none of.
func likeSecrets(name string) bool { return meantName(name) == "secrets" }
