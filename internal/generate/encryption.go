package generate

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

// A pair is how API servers come from one EncryptionConfiguration to the next
// with no request that fails. All of them get readers before any gets writers:
// what one writes, every other can then read.
//
// https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/#rotating-a-decryption-key
type pair struct {
	readers, writers *encryptionconfig.Configuration
}

// Names of the files of the pair.
const (
	readersName = "encryption-config-1-readers.yaml"
	writersName = "encryption-config-2-writers.yaml"
)

func (o *Options) encryptionConfigs() ([]File, error) {
	p, err := o.pair()
	if err != nil {
		return nil, err
	}
	return []File{o.readersFile(p), o.writersFile(p)}, nil
}

func (o *Options) readersFile(p *pair) File {
	return File{Name: readersName, Text: document(fmt.Sprintf(`EncryptionConfiguration, 1 of 2: readers. It goes to %s
on every control plane node, owner root, mode 0600.

With it an API server writes as before and can read what the second file makes it
write. Give it to ALL API servers before any gets the second. With one API server,
and no other that reads the same etcd, this step can be left out.

Check on each node, after it has been restarted or has reloaded the file:
- the program runs: aws-encryption-provider status --listen=%s
- /readyz of the API server is ok, its check kms-provider(s) included
%s`, o.PathAt, o.Config.Providers[0].Listen, o.namesForever()), p.readers), Secret: true}
}

func (o *Options) writersFile(p *pair) File {
	return File{Name: writersName, Text: document(fmt.Sprintf(`EncryptionConfiguration, 2 of 2: writers. It goes to %s
on every control plane node, owner root, mode 0600.

Install it only when ALL API servers run with the first file. From here on they
encrypt with this program. What is stored is as it was until it is written again:

%s

Keep every provider of this file until nothing in etcd is left of it. To go back:
the first file on all API servers, then write all objects again, and only then the
file from before.
%s`, o.PathAt, rewriting(o.written(p)), o.namesForever()), p.writers), Secret: true}
}

// rewriting is the command that writes resources again. kubectl takes no wildcards, and
// a shell would fill them in.
func rewriting(resources []string) string {
	const form = "  kubectl get %s --all-namespaces -o json | kubectl replace -f -"
	list := strings.Join(resources, ",")
	if !strings.Contains(list, "*") {
		return fmt.Sprintf(form, list)
	}
	return fmt.Sprintf(form, "RESOURCE") + fmt.Sprintf(`

for each RESOURCE that %s covers, of those that can be updated:

  kubectl api-resources --verbs=list,update -o name`, list)
}

func (*Options) namesForever() string {
	return `
The name of a provider is stored with every object: never change it. Comments of
the file that this was made from are lost.
`
}

// written are the resources whose first provider is another one than before.
func (*Options) written(p *pair) []string {
	var all []string
	for i, r := range p.writers.Resources {
		if !reflect.DeepEqual(r.Providers[0], p.readers.Resources[i].Providers[0]) {
			all = append(all, r.Resources...)
		}
	}
	return all
}

// pair makes both files of the present one.
func (o *Options) pair() (*pair, error) {
	if mistakes := o.resourceMistakes(); len(mistakes) > 0 {
		return nil, mistakes
	}
	readers, chosen, err := o.chosen()
	if err != nil {
		return nil, err
	}
	p := &pair{readers: readers, writers: &encryptionconfig.Configuration{
		APIVersion: readers.APIVersion, Kind: readers.Kind, Resources: slices.Clone(readers.Resources),
	}}
	names, err := o.namer()
	if err != nil {
		return nil, err
	}
	for nth, i := range chosen {
		present := readers.Resources[i]
		r, w := o.move(present.Providers, nth, names)
		p.readers.Resources[i] = encryptionconfig.Resource{Resources: present.Resources, Providers: r}
		p.writers.Resources[i] = encryptionconfig.Resource{Resources: present.Resources, Providers: w}
	}
	if o.Present != nil && reflect.DeepEqual(p.writers.Resources, o.Present.Resources) {
		return nil, config.Mistakes{{Field: "--encryption-config", Text: fmt.Sprintf("writes with %s already: there is nothing to change", p.writers.Resources[chosen[0]].Providers[0])}}
	}
	for _, c := range []*encryptionconfig.Configuration{p.readers, p.writers} {
		if mistakes := c.Check(); len(mistakes) > 0 {
			return nil, config.Mistakes{{Field: "encryption-config", Text: "kube-apiserver would refuse what these flags and --encryption-config make: " + mistakes.Error()}}
		}
	}
	return p, nil
}

// move puts this program's providers below the first one, and then its first
// above all. Those that are there already stay where they are, under their names.
func (o *Options) move(present []encryptionconfig.Provider, nth int, names *namer) (readers, writers []encryptionconfig.Provider) {
	readers = slices.Clone(present)
	var first encryptionconfig.Provider
	at := 1
	for i := range o.Config.Providers {
		index := slices.IndexFunc(readers, func(p encryptionconfig.Provider) bool { return o.isOurs(p, i, nth) })
		if index < 0 {
			index, at = at, at+1
			readers = slices.Insert(readers, index, o.entry(i, names.name(i, nth)))
		}
		if i == 0 {
			first = readers[index]
		}
	}
	writers = []encryptionconfig.Provider{first}
	for _, p := range readers {
		if !reflect.DeepEqual(p, first) {
			writers = append(writers, p)
		}
	}
	return readers, writers
}

// isOurs reports whether an entry is that of the i-th provider: its socket, its
// version and, where one is asked for, its name.
func (o *Options) isOurs(p encryptionconfig.Provider, i, nth int) bool {
	if p.KMS == nil || p.KMS.Socket() != o.Config.Providers[i].Listen || p.KMS.Version() != o.version() {
		return false
	}
	return i >= len(o.Names) || p.KMS.Name == numbered(o.Names[i], nth+1)
}

func (o *Options) version() string {
	if o.KMSv1 {
		return "v1"
	}
	return "v2"
}

func (o *Options) entry(i int, name string) encryptionconfig.Provider {
	timeout := o.timeout()
	kms := &encryptionconfig.KMS{
		APIVersion: o.version(), Name: name, Endpoint: encryptionconfig.Endpoint(o.Config.Providers[i].Listen), Timeout: &timeout,
	}
	if o.KMSv1 {
		kms.CacheSize = &o.CacheSize
	}
	return encryptionconfig.Provider{KMS: kms}
}

// timeout leaves a call to KMS all the time that it may take, and is no shorter
// than kube-apiserver's own default: the program answers 300 ms before its
// caller gives up.
func (o *Options) timeout() time.Duration {
	const (
		ahead = 300 * time.Millisecond
		step  = 100 * time.Millisecond
	)
	return max(encryptionconfig.DefaultTimeout, (o.Config.KMSTimeout + ahead + step - 1).Truncate(step))
}

// A namer finds names that are free. They are unique in the whole file, which
// kube-apiserver demands of v2 and, when it reloads the file, of v1.
type namer struct {
	given []string
	taken map[string]bool
}

func (o *Options) namer() (*namer, error) {
	n := &namer{o.Names, map[string]bool{}}
	var mistakes config.Mistakes
	for _, name := range o.Names {
		if !regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`).MatchString(name) {
			mistakes = append(mistakes, config.Mistake{Field: "--name", Text: fmt.Sprintf("%.120q: want letters, digits, '.', '_' and '-'", name)})
		}
	}
	if len(o.Names) > len(o.Config.Providers) {
		mistakes = append(mistakes, config.Mistake{Field: "--name", Text: fmt.Sprintf("%d names for %d providers", len(o.Names), len(o.Config.Providers))})
	}
	if o.Present != nil {
		for _, r := range o.Present.Resources {
			for _, p := range r.Providers {
				if p.KMS != nil {
					n.taken[p.KMS.Name] = true
				}
			}
		}
	}
	for i, name := range o.Names {
		if n.taken[name] && !o.has(name, i) || slices.Contains(o.Names[:i], name) {
			mistakes = append(mistakes, config.Mistake{Field: "--name", Text: fmt.Sprintf("%q is the name of another provider: data under it would be given to the wrong one", name)})
		}
	}
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	return n, nil
}

// has reports whether the present file has the i-th provider under a name.
func (o *Options) has(name string, i int) bool {
	for _, r := range o.Present.Resources {
		for _, p := range r.Providers {
			if p.KMS != nil && p.KMS.Name == name && o.isOurs(p, i, 0) {
				return true
			}
		}
	}
	return false
}

// name returns a free name for the i-th provider in the nth entry.
func (n *namer) name(i, nth int) string {
	base, number := DefaultName, i+nth+1
	if i < len(n.given) {
		base, number = n.given[i], nth+1
	}
	for n.taken[numbered(base, number)] {
		number++
	}
	name := numbered(base, number)
	n.taken[name] = true
	return name
}

func numbered(base string, n int) string {
	if n == 1 {
		return base
	}
	return base + "-" + strconv.Itoa(n)
}

// chosen returns a copy of the present file, with an entry for every resource
// that is asked for, and which entries are to change.
func (o *Options) chosen() (*encryptionconfig.Configuration, []int, error) {
	c := &encryptionconfig.Configuration{APIVersion: encryptionconfig.APIVersion, Kind: encryptionconfig.Kind}
	if o.Present != nil {
		c.Resources = slices.Clone(o.Present.Resources)
	}
	if entries := encrypted(c); len(o.Resources) == 0 && len(entries) > 0 {
		return c, entries, nil
	}
	want := o.Resources
	if len(want) == 0 {
		want = []string{DefaultResources}
	}
	chosen, missing, mistakes := entriesOf(c, want)
	if len(mistakes) > 0 {
		return nil, nil, mistakes
	}
	if len(missing) > 0 { // last: what stands above counts first
		chosen = append(chosen, len(c.Resources))
		c.Resources = append(c.Resources, encryptionconfig.Resource{
			Resources: missing, Providers: []encryptionconfig.Provider{{Identity: &encryptionconfig.Identity{}}},
		})
	}
	return c, chosen, nil
}

// entriesOf returns the entries that are for these resources and no others, and
// which of them no entry is for.
func entriesOf(c *encryptionconfig.Configuration, want []string) (chosen []int, missing []string, mistakes config.Mistakes) {
	for _, name := range want {
		i := slices.IndexFunc(c.Resources, func(r encryptionconfig.Resource) bool { return slices.ContainsFunc(r.Resources, covering(name)) })
		switch {
		case i < 0:
			missing = append(missing, name)
		case !slices.Contains(c.Resources[i].Resources, name):
			mistakes = append(mistakes, config.Mistake{Field: "--resources", Text: fmt.Sprintf(
				"%s is already among %q of resources[%d] in the present file: name that instead", name, c.Resources[i], i)})
		case !slices.Contains(chosen, i):
			chosen = append(chosen, i)
		}
	}
	for _, i := range chosen {
		for _, name := range c.Resources[i].Resources {
			if !slices.Contains(want, name) {
				mistakes = append(mistakes, config.Mistake{Field: "--resources", Text: fmt.Sprintf(
					"resources[%d] of the present file has %s too, and its providers are those of all: name it as well, or give it an entry of its own first", i, encryptionconfig.Shown(name))})
			}
		}
	}
	slices.Sort(chosen)
	return chosen, missing, mistakes
}

// encrypted are the entries that encrypt, or have: an entry of identity alone
// leaves its resources in the clear on purpose.
func encrypted(c *encryptionconfig.Configuration) []int {
	var all []int
	for i, r := range c.Resources {
		if slices.ContainsFunc(r.Providers, func(p encryptionconfig.Provider) bool { return p.Identity == nil }) {
			all = append(all, i)
		}
	}
	return all
}

// covering reports whether a resource of the file stands for this one.
func covering(name string) func(string) bool {
	return func(pattern string) bool {
		_, group, _ := strings.Cut(name, ".")
		switch {
		case pattern == name, pattern == "*.*":
			return true
		case name == "*.*":
			return false
		}
		all, ok := strings.CutPrefix(pattern, "*.")
		return ok && all == group
	}
}

// resourceMistakes are those of the names by themselves: kube-apiserver's own, and
// what it would take although no resource has such a name.
func (o *Options) resourceMistakes() config.Mistakes {
	var m config.Mistakes
	for _, wrong := range encryptionconfig.CheckResources(o.Resources) {
		m = append(m, config.Mistake{Field: "--resources", Text: wrong.Text})
	}
	if len(m) > 0 {
		return m
	}
	for _, name := range o.Resources {
		if !regexp.MustCompile(`^([a-z0-9-]+|\*\.\*|\*\.|([a-z0-9-]+|\*)(\.[a-z0-9-]+)+)$`).MatchString(name) {
			m = append(m, config.Mistake{Field: "--resources", Text: fmt.Sprintf("%.120q is no resource: want such as secrets, pandas.example.com, *.apps or *.*", name)})
		}
	}
	return m
}

// Warnings are what kube-apiserver takes of generated files although nobody can
// have meant it: that no Secret is encrypted, because of another name for them.
func Warnings(files []File) []string {
	var all []string
	for _, file := range files {
		if file.Name != writersName {
			continue
		}
		_, _, warnings := encryptionconfig.Examine([]byte(file.Text))
		for _, w := range warnings {
			if w.Rule == encryptionconfig.Plain {
				all = append(all, w.Text)
			}
		}
	}
	return all
}
