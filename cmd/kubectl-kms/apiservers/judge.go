package apiservers

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// Options are what else is known.
type Options struct {
	From string // the kubeconfig, as people call it

	// Config is the file that API servers are thought to have loaded; nil: not known.
	// ConfigHash is [HashOf] of it.
	Config                 *encryptionconfig.Configuration
	ConfigName, ConfigHash string

	KeyIDs []string    // whose hashes become names
	Probe  *Probe      // nil: none was done
	Expect Expectation // nil: nobody expects more than that all write alike
	Only   []string    // resources that Expect is about; none: all that are encrypted
}

// Judge makes a report of what was observed.
func Judge(o *Observation, opts Options) *Report {
	j := &judge{o: o, opts: opts, names: map[string]string{}, r: &Report{
		APIVersion: APIVersion, Kind: Kind, From: report.Plain(opts.From), AddressesFrom: "EndpointSlice default/kubernetes",
		APIServers: []APIServer{}, NotCovered: []NotCovered{}, ControlPlaneNodes: o.After.Nodes,
	}}
	if o.Given {
		j.r.AddressesFrom = "--apiserver"
	}
	if opts.Config != nil {
		j.r.Configuration = &File{report.Plain(opts.ConfigName), opts.ConfigHash}
	}
	for _, id := range slices.Concat(opts.KeyIDs, opts.Probe.keyIDs()) {
		j.names[HashOf([]byte(id))] = id
	}
	j.processes()
	j.coverage()
	j.configurations()
	j.keys()
	j.writers()
	j.probed()
	j.expected()
	j.report()
	return j.r
}

// A process is an API server that answered, whatever addresses lead to it.
type process struct {
	Answer // the second

	name      string
	lease     string
	addresses []string
	writes    []Write
}

type judge struct {
	o       *Observation
	opts    Options
	names   map[string]string // hash of a key_id → the key_id
	found   []*process
	failed  []APIServer
	counted bool // API servers that name no Lease are told from Leases by their number
	reasons []Reason
	r       *Report
}

func (j *judge) because(kind ReasonKind, format string, args ...any) {
	r := Reason{kind, fmt.Sprintf(format, args...)}
	if !slices.Contains(j.reasons, r) {
		j.reasons = append(j.reasons, r)
	}
}

// processes finds out which processes answered at the addresses. Two answers of one
// address have to be of one process: else a load balancer stands there, or it restarted.
func (j *judge) processes() {
	for _, a := range j.o.Asked {
		address := report.Plain(a.Address)
		if a.Err != nil || len(a.Answers) < 2 {
			text := "it was not asked"
			if a.Err != nil {
				text = strings.TrimPrefix(a.Err.Error(), a.Address+": ")
			}
			j.failed = append(j.failed, APIServer{Name: address, Addresses: []string{address}, Keys: []Key{}, Error: report.Clip(text, 1024)})
			j.because(Unreachable, "%s: %s", address, report.Clip(strings.TrimSuffix(text, "."), 1024))
			continue
		}
		first, last := a.Answers[0], a.Answers[len(a.Answers)-1]
		switch {
		case slices.ContainsFunc(a.Answers, func(other Answer) bool { return other.ID != first.ID }):
			j.because(LoadBalancer, "%s leads to several API servers, such as a load balancer does: give the address of each by --apiserver", address)
		case slices.ContainsFunc(a.Answers, func(other Answer) bool { return other.Process != first.Process }):
			if began(last).After(first.Now.Add(-freshLease)) {
				j.because(Restarted, "the API server at %s has restarted meanwhile", address)
			} else {
				j.because(LoadBalancer, "%s leads to several API servers of one host: give the address of each by --apiserver", address)
			}
		case first.Process == "":
			j.because(Unidentified, "%s does not say when its process began, and so cannot be told from others", address)
		}
		for _, answer := range a.Answers {
			j.process(address, answer)
		}
	}
}

// began is when a process did, as its metric has it.
func began(a Answer) time.Time {
	seconds, err := strconv.ParseFloat(a.Process, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMicro(int64(seconds * 1e6))
}

// process adds an answer to the process that it is of. Two that say different things are
// never taken for one: processes of one host may have begun at the same moment.
func (j *judge) process(address string, a Answer) {
	i := slices.IndexFunc(j.found, func(p *process) bool {
		return p.ID == a.ID && p.Process == a.Process && p.Config == a.Config && slices.EqualFunc(p.newest(), a.newest(), sameKey) && (a.Process != "" || slices.Contains(p.addresses, address))
	})
	if i < 0 {
		j.found = append(j.found, &process{Answer: a, addresses: []string{address}})
		return
	}
	p := j.found[i]
	if !slices.Contains(p.addresses, address) {
		p.addresses = append(p.addresses, address)
	}
	p.Answer = a
}

func sameKey(a, b KeyID) bool { return a.Provider == b.Provider && a.Hash == b.Hash }

// coverage finds out whether every API server that lives was asked.
func (j *judge) coverage() {
	before, after := j.o.Before, j.o.After
	if len(j.o.Asked) == 0 {
		j.because(NoAddresses, "the cluster has no address of an API server in EndpointSlice default/kubernetes: give the address of each by --apiserver")
	}
	living := living(after)
	if len(living) == 0 {
		j.because(NoLeases, "no Lease in kube-system says which API servers live: they have them since Kubernetes 1.26, unless the feature gate APIServerIdentity is off")
	}
	j.changes(before, after)
	var missing []Lease
	for _, l := range living {
		hash, covered := HashOf([]byte(l.Name)), false
		for _, p := range j.found {
			if p.ID == hash {
				p.lease, p.name, covered = report.Plain(l.Name), report.Plain(cmp.Or(l.Host, l.Name)), true
			}
		}
		if !covered {
			missing = append(missing, l)
		}
	}
	if !j.byCount(missing) {
		for _, l := range missing {
			j.notCovered(l, after.Now.Sub(l.Renewed))
		}
	}
	for _, p := range j.found {
		p.name = cmp.Or(p.name, p.addresses[0])
		switch {
		case p.lease != "" || p.ID == "" && j.counted:
		case p.ID == "":
			j.because(Unidentified, "the API server at %s does not name its Lease in metrics, as those of Kubernetes below 1.34 do only with KMS v2 or a reload: whether it is the one that a Lease is of is not known", p.name)
		default:
			j.because(Unidentified, "no Lease is of the API server at %s: is it one of another cluster, or does it start or stop?", p.name)
		}
	}
	j.sharing(living)
	j.count("addresses in EndpointSlice default/kubernetes", len(after.Addresses))
	j.count("nodes that are labelled control plane", after.Nodes)
	if after.Nodes < 0 {
		j.because(NodesUnknown, "the nodes of the control plane may not be listed: an API server that is restarting would not be missed")
	}
}

// byCount reports whether API servers that name no Lease are as many as the Leases that
// nobody named. That is enough for a probe, which needs to know only that it left none out.
func (j *judge) byCount(missing []Lease) bool {
	unnamed := 0
	for _, p := range j.found {
		if p.ID == "" {
			unnamed++
		}
	}
	j.counted = j.opts.Probe != nil && unnamed > 0 && len(missing) <= unnamed
	return j.counted
}

// living are the API servers that may come back, and write. An API server that ends
// deletes its Lease; one that is killed leaves it until its time is over.
func living(m Members) []Lease {
	var out []Lease
	for _, l := range m.Leases {
		if m.Now.Before(l.Renewed.Add(max(l.Duration, freshLease))) {
			out = append(out, l)
		}
	}
	return out
}

func (j *judge) notCovered(l Lease, age time.Duration) {
	name := report.Plain(cmp.Or(l.Host, l.Name))
	j.r.NotCovered = append(j.r.NotCovered, NotCovered{report.Plain(l.Name), quoted(l.Host), int64(age / time.Second)})
	if age > freshLease {
		j.because(Uncovered, "the API server of %s has not renewed its Lease for %s, and no address leads to it: start it, or delete Lease kube-system/%s if it is gone for good",
			name, age.Round(time.Second), report.Plain(l.Name))
		return
	}
	j.because(Uncovered, "the API server of %s lives by its Lease kube-system/%s, and no address that was asked leads to it", name, report.Plain(l.Name))
}

func quoted(text string) string {
	if text == "" {
		return ""
	}
	return report.Plain(text)
}

// sharing finds Leases that more API servers renew than were asked.
func (j *judge) sharing(living []Lease) {
	if j.o.Renewals == nil {
		if j.o.mayShare() {
			j.because(Unwatched, "whether an API server that was not asked shares a Lease with one that was is not known: nobody watched for long enough")
		}
		return
	}
	for _, l := range living {
		asked := 0
		for _, p := range j.found {
			if p.ID == HashOf([]byte(l.Name)) || p.ID == "" {
				asked++
			}
		}
		if n := renewers(j.o.Renewals[l.Name]); asked > 0 && n > asked {
			j.because(Uncovered, "at least %d API servers renew Lease kube-system/%s, and %s asked: give the address of each by --apiserver",
				n, report.Plain(l.Name), report.Plural(int64(asked), "was", "were"))
		}
	}
}

// changes are API servers that came or went meanwhile.
func (j *judge) changes(before, after Members) {
	holders := func(m Members) map[string]string {
		out := map[string]string{}
		for _, l := range m.Leases {
			out[l.Name] = l.Holder
		}
		return out
	}
	was, is := holders(before), holders(after)
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if holder, there := is[name]; !there {
			j.because(Restarted, "the API server of Lease %s has ended meanwhile", report.Plain(name))
		} else if holder != was[name] {
			j.because(Restarted, "the API server of Lease %s has restarted meanwhile", report.Plain(name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if _, there := was[name]; !there {
			j.because(Restarted, "the API server of Lease %s has started meanwhile", report.Plain(name))
		}
	}
}

// count compares the processes that answered with how many there have to be: API servers
// on hosts of one name share a Lease.
func (j *judge) count(what string, there int) {
	if n := len(j.found); there > n {
		j.because(Uncovered, "there are %d %s, and %s answered: one may be restarting, or one that is gone for good is still listed", there, what, report.Plural(int64(n), "API server", "API servers"))
	}
}

// configurations compares those that are in force.
func (j *judge) configurations() {
	hashes := map[string][]string{}
	for _, p := range j.found {
		hashes[p.Config] = append(hashes[p.Config], p.name)
	}
	if without := hashes[""]; len(without) > 0 {
		j.because(NoConfigHash, "%s does not say by metrics which encryption configuration is in force: Kubernetes below 1.34 does not, nor one without --encryption-provider-config", strings.Join(without, ", "))
		delete(hashes, "")
	}
	if len(hashes) > 1 {
		var parts []string
		for _, hash := range slices.Sorted(maps.Keys(hashes)) {
			parts = append(parts, who(hashes[hash], "has", "have")+" "+short(hash))
		}
		slices.Sort(parts)
		j.because(Differ, "the encryption configurations differ: %s", strings.Join(parts, ", "))
		return
	}
	for hash := range hashes {
		if j.opts.Config != nil && hash != j.opts.ConfigHash {
			j.because(OtherConfig, "the API servers have loaded %s, and %s is %s: without --encryption-provider-config-automatic-reload only a restart loads it, with it a minute may pass",
				short(hash), report.Plain(j.opts.ConfigName), short(j.opts.ConfigHash))
		}
	}
}

// who is who does something.
func who(names []string, does, do string) string {
	if len(names) == 1 {
		return names[0] + " " + does
	}
	return strings.Join(names, ", ") + " " + do
}

// short is enough of a hash to compare it by eye.
func short(hash string) string {
	const most = len("sha256:") + 12
	return report.Plain(hash[:min(len(hash), most)])
}

// known reports whether the configuration is of the API servers, all of which have the same.
func (j *judge) known() bool {
	return j.opts.Config != nil && len(j.found) > 0 && !slices.ContainsFunc(j.found, func(p *process) bool { return p.Config != j.opts.ConfigHash })
}

// keys compares what the plugins named last, by their providers.
func (j *judge) keys() {
	byProvider := map[string]map[string][]string{}
	for _, p := range j.found {
		for _, k := range p.newest() {
			age := p.Now.Sub(k.Seen)
			if j.known() && !j.configured(k.Provider) {
				continue // it was in a configuration before
			}
			if age > freshKey {
				j.because(OldKey, "the plugin of provider %s was last heard of by the API server of %s %s ago: it does not answer, or the provider is no longer in the configuration, which --encryption-config would tell",
					report.Plain(k.Provider), p.name, age.Round(time.Second))
				continue
			}
			if byProvider[k.Provider] == nil {
				byProvider[k.Provider] = map[string][]string{}
			}
			byProvider[k.Provider][k.Hash] = append(byProvider[k.Provider][k.Hash], p.name)
		}
		switch {
		case p.Health != "":
			j.because(Unhealthy, "the KMS check of the API server of %s fails: %s", p.name, report.Clip(p.Health, 512))
		case !p.HealthKnown:
			j.because(Unhealthy, "the API server of %s does not say whether its KMS plugins are well", p.name)
		}
	}
	for _, provider := range slices.Sorted(maps.Keys(byProvider)) {
		hashes := byProvider[provider]
		if len(hashes) > 1 {
			var parts []string
			for _, hash := range slices.Sorted(maps.Keys(hashes)) {
				parts = append(parts, who(hashes[hash], "writes", "write")+" under "+j.nameOf(hash))
			}
			slices.Sort(parts) // by the names of API servers
			j.because(Differ, "of provider %s, %s", report.Plain(provider), strings.Join(parts, ", and "))
		}
		n := 0
		for _, names := range hashes {
			n += len(names)
		}
		if n < len(j.found) {
			j.because(NoKey, "%d of %d API servers name the key_id of provider %s", n, len(j.found), report.Plain(provider))
		}
	}
}

func (j *judge) nameOf(hash string) string {
	if id, ok := j.names[hash]; ok {
		return report.Clip(id, 256)
	}
	return short(hash)
}

// configured reports whether a provider of KMS v2 is in the configuration.
func (j *judge) configured(name string) bool {
	return slices.ContainsFunc(j.opts.Config.Resources, func(r encryptionconfig.Resource) bool {
		return slices.ContainsFunc(r.Providers, func(p encryptionconfig.Provider) bool {
			return p.KMS != nil && p.KMS.Version() == "v2" && p.KMS.Name == name
		})
	})
}

// writers finds out under what resources are written: the first provider of the
// configuration, and for KMS v2 the key_id that its plugin named last.
func (j *judge) writers() {
	if !j.known() {
		j.unknownWriters()
		return
	}
	for _, entry := range j.opts.Config.Resources {
		if !entry.Encrypts() {
			continue
		}
		for _, resource := range entry.Resources {
			j.writer(resource, entry.Providers[0])
		}
	}
}

func (j *judge) writer(resource string, first encryptionconfig.Provider) {
	w := Write{Resource: report.Plain(resource), Format: formatOf(first)}
	switch {
	case first.KMS != nil:
		w.Provider = report.Plain(first.KMS.Name)
	case len(first.LocalKeys()) > 0:
		w.Provider = report.Plain(first.LocalKeys()[0].Name)
	}
	if first.KMS != nil && first.KMS.Version() == "v1" {
		j.because(V1, "%s are written by KMS v1 under provider %s, and neither metrics nor values of v1 name the key", w.Resource, w.Provider)
	}
	for _, p := range j.found {
		if first.KMS != nil && first.KMS.Version() == "v2" {
			i := slices.IndexFunc(p.newest(), func(k KeyID) bool { return k.Provider == first.KMS.Name })
			if i < 0 {
				j.because(NoKey, "the API server of %s does not say which key_id provider %s has named", p.name, w.Provider)
				continue
			}
			w.KeyIDHash = report.Plain(p.newest()[i].Hash)
			w.KeyID = quoted(j.names[p.newest()[i].Hash])
		}
		p.writes = append(p.writes, w)
	}
}

// Formats of KMS, as package stored calls them.
const (
	formatV1 = "kms v1"
	formatV2 = "kms v2"
)

// formatOf is what package stored calls what a provider writes.
func formatOf(p encryptionconfig.Provider) string {
	switch {
	case p.KMS != nil:
		return "kms " + p.KMS.Version()
	case p.AESCBC != nil:
		return "aescbc"
	case p.AESGCM != nil:
		return "aesgcm"
	case p.Secretbox != nil:
		return "secretbox"
	}
	return plaintext
}

// unknownWriters is without the configuration. API servers that have the same one, and
// the same key_id for each provider of KMS v2, write alike, whichever of them writes.
func (j *judge) unknownWriters() {
	for _, p := range j.found {
		switch {
		case p.V1:
			j.because(V1, "the API server of %s uses KMS v1, whose values name no key", p.name)
		case len(p.Keys) == 0:
			j.because(WriterUnsaid, "no metric of the API server of %s tells what it writes under: it has no provider of KMS v2. --encryption-config says which provider writes, and --probe tries it", p.name)
		}
	}
}

// report gives all of it its form.
func (j *judge) report() {
	for _, p := range j.found {
		s := APIServer{
			Name: p.name, Lease: p.lease, Addresses: p.addresses, Version: quoted(p.Version), ConfigHash: quoted(p.Config),
			Keys: []Key{}, Writes: p.writes,
		}
		for _, k := range p.newest() {
			s.Keys = append(s.Keys, Key{report.Plain(k.Provider), report.Plain(k.Hash), quoted(j.names[k.Hash]), int64(p.Now.Sub(k.Seen) / time.Second)})
		}
		j.r.APIServers = append(j.r.APIServers, s)
	}
	j.r.APIServers = append(j.r.APIServers, j.failed...)
	slices.SortStableFunc(j.r.APIServers, func(a, b APIServer) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Addresses[0], b.Addresses[0]))
	})
	v := &j.r.Verdict
	v.Reasons = slices.Clone(j.reasons)
	slices.SortStableFunc(v.Reasons, func(a, b Reason) int { return cmp.Compare(rank(a.Kind), rank(b.Kind)) })
	if v.Reasons == nil {
		v.Reasons = []Reason{}
	}
	v.Answer = NotKnown
	switch {
	case len(v.Reasons) == 0:
		v.Answer = Converged
	case rank(v.Reasons[0].Kind) == 0:
		v.Answer = NotConverged
	}
	v.Lasting = slices.ContainsFunc(v.Reasons, func(r Reason) bool {
		return r.Kind == OtherWriter && j.known() || v.Answer == NotKnown && r.Kind.lasting()
	})
	v.Text = j.sentence(v)
}

// rank puts what is certain before what is not known.
func rank(k ReasonKind) int {
	if slices.Contains([]ReasonKind{Differ, OtherConfig, OtherKey, OtherWriter}, k) {
		return 0
	}
	return 1
}

func (j *judge) sentence(v *Verdict) string {
	var parts []string
	if v.Answer == Converged {
		parts = append(parts, "converged: "+j.alike())
		if j.r.Expected != "" {
			parts = append(parts, "that is under "+j.r.Expected+", as expected")
		}
	} else {
		parts = append(parts, string(v.Answer)+": "+v.Reasons[0].Text)
		for _, r := range v.Reasons[1:min(len(v.Reasons), 12)] {
			parts = append(parts, r.Text)
		}
		if more := len(v.Reasons) - 12; more > 0 {
			parts = append(parts, fmt.Sprintf("and %d more reasons", more))
		}
	}
	return strings.Join(append(parts, j.basis()...), "; ") + "."
}

// alike says what all API servers do.
func (j *judge) alike() string {
	n := len(j.found)
	all := "both API servers write"
	switch {
	case n == 1:
		all = "the only API server writes"
	case n > 2:
		all = fmt.Sprintf("all %d API servers write", n)
	}
	var under []string
	for _, w := range j.found[0].writes {
		if text := j.words(w); !slices.Contains(under, text) {
			under = append(under, text)
		}
	}
	if j.encryptsNothing() {
		return all + " " + j.words(Write{Format: plaintext})
	}
	if len(under) == 0 {
		for _, k := range j.found[0].newest() {
			under = append(under, fmt.Sprintf("by provider %s under key_id %s", report.Plain(k.Provider), j.nameOf(k.Hash)))
		}
	}
	return all + " " + strings.Join(under, " or ")
}

// basis is what the verdict rests on.
func (j *judge) basis() []string {
	leases := living(j.o.After)
	out := []string{fmt.Sprintf("rests on: %s, %s by %s, metrics and health of each, asked twice",
		report.Plural(int64(len(leases)), "living Lease", "living Leases"),
		report.Plural(int64(len(j.o.Asked)), "address", "addresses"), j.r.AddressesFrom)}
	if n := j.o.After.Nodes; n > 0 {
		out[0] += ", " + report.Plural(int64(n), "control plane node", "control plane nodes")
	}
	if j.known() {
		out = append(out, "which provider writes: by "+report.Plain(j.opts.ConfigName)+", which all have loaded")
	} else if len(j.found) > 0 {
		out = append(out, "which of several providers writes: not asked, --encryption-config tells")
	}
	if j.counted {
		out = append(out, "which Lease is whose: by their number")
	}
	if j.opts.Probe != nil {
		out = append(out, "objects were written by each, read in etcd and deleted")
	}
	return out
}
