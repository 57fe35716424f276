package doctor

import (
	"fmt"
	"strings"
)

// A Code names what only the doctor finds. What fails at calls has the codes of
// package cause. An ID is never reused or renumbered.
type Code uint8

// What only the doctor finds.
const (
	FileRefused Code = iota
	Ineffective
	ClockOff
	RotationOff
	SlowKMS
	PathTaken
	PathUnusable
	DeadSocket
	LooseDirectory
	SocketAccess
	PluginSilent
	PluginIll
	PluginOther
	EncryptionFile
	ProviderMissing
	NameTwice
	NameRefused
	NotFirst
	OldAPI
	CacheSmall
	CacheRefused
	TimeoutRefused
	TimeoutShort
	HopLimit
	SecretsPlain
	EndpointStrays
	NameOnReload
)

// Info is what the table says of a code.
type Info struct {
	ID     string
	Status Status
	What   string // why it matters, in words that follow a colon
	Next   string // the one instruction
	Doc    string // what else an operator wants to know
}

// Info returns the table's row of the code.
func (c Code) Info() Info { return table[c] }

// Codes returns every code, in the order of the IDs.
func Codes() []Code {
	codes := make([]Code, len(table))
	for i := range table {
		codes[i] = Code(i)
	}
	return codes
}

//nolint:gochecknoglobals // read-only: the table that the command speaks from
var table = [...]Info{
	FileRefused: {
		"KMS0701", Failure, "the program would refuse this file", "correct the file: each mistake is named with its line",
		"A process that runs goes on with the file that it read before; one that starts does not start.",
	},
	Ineffective: {"KMS0702", Warning, "a setting has no effect", "remove it, or correct what it was meant for", ""},
	ClockOff: {
		"KMS0703", Warning, "this node's clock is not KMS's", "set the clock: look at chrony or systemd-timesyncd on the node",
		"AWS refuses signatures that are more than five minutes off. Until then all works, and then nothing does.",
	},
	RotationOff: {
		"KMS0704", Warning, "KMS does not rotate the key material by itself", "switch automatic rotation on: aws kms enable-key-rotation --rotation-period-in-days 90 --key-id KEY, or rotate by hand",
		"Organisations commonly ask for a rotation every 90 days. Keys with imported material and in custom key stores cannot be rotated automatically.",
	},
	SlowKMS: {
		"KMS0705", Warning, "calls to KMS take long", "use the KMS endpoint of the node's own Region, and look at the network path: VPC endpoint, proxy",
		"An API server that starts makes one call for each DEK that it meets; KMS v1 one for each object.",
	},
	PathTaken: {
		"KMS0706", Failure, "something stands at the socket's path that is no socket", "move it away, or give the program another path",
		"The program removes sockets that nobody serves, and nothing else.",
	},
	PathUnusable: {"KMS0707", Failure, "no socket can be made or found at the path", "correct the path or its directory: each part of it has to be a directory that the program's user may enter and write to", ""},
	DeadSocket: {
		"KMS0708", Warning, "a socket is there that no process serves", "start the program: it replaces the socket",
		"It is what a process leaves that was killed. Until the program runs, API servers are refused the connection.",
	},
	LooseDirectory: {
		"KMS0709", Warning, "every user of the node may replace the socket", "take the write permission of others away from the directory: chmod o-w",
		"Who may write to the directory may put a socket of their own in place, and is given what API servers want encrypted.",
	},
	SocketAccess: {"KMS0710", Warning, "the socket's mode or group is not what this configuration says", "restart the program with this configuration, and look for what else changes the file", ""},
	PluginSilent: {"KMS0711", Failure, "a process serves the socket and does not answer as a KMS plugin", "look at the log of the process; stop it if it is another program", ""},
	PluginIll:    {"KMS0712", Failure, "the running plugin reports a problem", "follow the code in the plugin's own words, and look at its log", ""},
	PluginOther: {
		"KMS0713", Warning, "the running plugin does not run with this configuration", "restart the plugin with this configuration, or give the doctor the plugin's own",
		"Key and encryption context are part of the key_id that the plugin answers; they are compared with this configuration's.",
	},
	EncryptionFile: {"KMS0714", Failure, "kube-apiserver would refuse the EncryptionConfiguration", "correct the file: an API server that restarts with it does not start", ""},
	ProviderMissing: {
		"KMS0715", Failure, "no entry of the EncryptionConfiguration uses this provider's socket", "add a kms entry with this endpoint, or correct the endpoint of the entry that is meant: generate encryption-config writes one",
		"The endpoint is unix:// and the path of --listen. In a pod, both sides have to mount the directory at the same path.",
	},
	NameTwice: {
		"KMS0716", Failure, "two kms entries share a name", "give each its own name; keep the name of the one that has already stored data",
		"The name is stored with the data: kube-apiserver finds the provider by it. It refuses v2 entries that share one.",
	},
	NameRefused: {"KMS0717", Failure, "kube-apiserver does not take this name", "choose a name without a colon", "The name stands between colons in etcd."},
	NotFirst: {
		"KMS0718", Warning, "another provider writes: new data is not encrypted by this program", "move the kms entry to the first place, once every API server reads with it",
		"It is right for the first step of a migration, in which all API servers learn to read. With identity in the first place, new data is stored in the clear.",
	},
	OldAPI: {
		"KMS0719", Warning, "the entry uses KMS v1, which is deprecated and off by default", "add an entry with apiVersion: v2 and another name before it, and rewrite the data; keep this one until then",
		"KMS v1 is deprecated since Kubernetes 1.28, and needs the feature gate KMSv1 since 1.29. https://kubernetes.io/docs/tasks/administer-cluster/kms-provider/",
	},
	CacheSmall: {
		"KMS0720", Warning, "cachesize is smaller than the number of objects", "raise cachesize above the number of objects that the entry encrypts",
		"With KMS v1 each object has a DEK of its own: one that is not in the cache costs a call of KMS at each read.",
	},
	CacheRefused:   {"KMS0721", Failure, "kube-apiserver does not take this cachesize", "remove cachesize from entries of KMS v2; with v1 give a number other than 0", ""},
	TimeoutRefused: {"KMS0722", Failure, "kube-apiserver does not take this timeout", "give a timeout above 0, such as 3s", ""},
	TimeoutShort: {
		"KMS0723", Failure, "the API server gives up before KMS has answered", "raise the entry's timeout to 3s or more",
		"The program keeps 300 ms of the timeout for its own answer. The time that calls took just now, and that, have to fit.",
	},
	HopLimit: {
		"KMS0724", Failure, "the instance metadata service accepts connections and gives no token: its answers end before they reach this process",
		"raise the hop limit: aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2 --instance-id INSTANCE, or run with hostNetwork",
		"The limit is 1 by default, which is enough on the host and in a pod with hostNetwork.",
	},
	SecretsPlain: {
		"KMS0725", Warning, "Secrets are stored in the clear", "write secrets, without a version or group, among the resources of the entry",
		"kube-apiserver takes the name of any resource, also of one that does not exist, and encrypts what has exactly that name.",
	},
	EndpointStrays: {
		"KMS0726", Warning, "an endpoint does not lead where it seems to", "write unix:// and then the whole path, which begins with a slash: three slashes in all",
		"kube-apiserver reads the endpoint as a URL: what follows two slashes is a host, which it ignores.",
	},
	NameOnReload: {
		"KMS0727", Warning, "kube-apiserver refuses the file where it reloads it by itself", "leave --encryption-provider-config-automatic-reload off until the entries are replaced by ones of KMS v2, each with a name of its own",
		"Without that flag, entries of KMS v1 may share a name. Do not rename one that has stored data: kube-apiserver finds the data by the name.",
	},
}

// Page returns docs/doctor-codes.md.
func Page() string {
	var b strings.Builder
	b.WriteString("# What only doctor finds\n\n" +
		"<!-- generated by `make generate` from internal/doctor/codes.go: do not edit -->\n\n" +
		"[doctor](doctor.md) shows these codes beside those of [failing calls](errors.md). A code never changes its meaning.\n")
	for _, c := range Codes() {
		info := c.Info()
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n- Counts as: %s\n- What to do: %s.\n",
			info.ID, strings.ToUpper(info.What[:1])+info.What[1:], info.Status, info.Next)
		if info.Doc != "" {
			fmt.Fprintf(&b, "\n%s\n", info.Doc)
		}
	}
	return b.String()
}
