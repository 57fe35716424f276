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
	KeyLacking
	SocketLacking
	NotPermitted
	TimeoutLong
	FileNotTaken
	NoWay
	UnitLacks
	SocketTwice
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

// What every instruction says that could be followed on one node of several, or
// while KMS does not answer.
const (
	// oneNode is for a change of this program that no other node depends on.
	oneNode = ", on one node after the other, and on none while KMS does not answer"
	// oneAPIServer is for a change that an API server takes by a restart or a reload:
	// it then asks KMS for everything again, and what it has in memory is gone.
	oneAPIServer = "; change one API server after the other, and none while KMS does not answer"
	// noStart is for a file that kube-apiserver does not take.
	noStart = "restart no API server with it, since none would start: "
	// steps are those of a key that is to write.
	steps = "add it below on all nodes first, as a read key, then move it to the top on one node after the other; restart nothing and change no key while KMS does not answer"
)

//nolint:gochecknoglobals // read-only: the table that the command speaks from
var table = [...]Info{
	FileRefused: {
		"KMS0701", Failure, "the program would refuse this file", "correct the file: each mistake is named with its line; restart no node's program before that",
		"A process that runs goes on with the file that it read before, in an outage of KMS too; one that starts does not start.",
	},
	Ineffective: {"KMS0702", Warning, "a setting has no effect", "correct what it was meant for, or take it out with the next change that you make on every node: it hurts nothing meanwhile", "No restart is worth it, least of all while KMS does not answer."},
	ClockOff: {
		"KMS0703", Warning, "this node's clock is not KMS's", "set the clock: look at chrony or systemd-timesyncd on the node",
		"AWS refuses signatures that are more than five minutes off. Until then all works, and then nothing does.",
	},
	RotationOff: {
		"KMS0704", Warning, "KMS does not rotate the key material by itself",
		"switch automatic rotation on, every 365 days as AWS does by default: aws kms enable-key-rotation --key-id KEY --region REGION, or rotate by hand",
		"No node has to do anything for it: [all follow by themselves](rotation.md#kms-rotates-the-key). " +
			"365 days is AWS's default, and enough unless rules of your own ask for less (`--rotation-period-in-days`, 90 to 2,560): " +
			"KMS keeps every earlier material and goes on decrypting with it, so that a shorter period does not protect what is stored, and each rotation has every API server take a new DEK seed. " +
			"A multi-Region key is rotated in its primary's Region. Keys with imported material and in custom key stores cannot be rotated automatically.",
	},
	SlowKMS: {
		"KMS0705", Warning, "calls to KMS take long", "use the KMS endpoint of the node's own Region, and look at the network path: VPC endpoint, proxy",
		"An API server that starts makes one call for each DEK that it meets; KMS v1 one for each object. Change the endpoint on one node after the other, and while KMS answers. In the file it takes no restart.",
	},
	PathTaken: {
		"KMS0706", Failure, "something stands at the socket's path that is no socket", "find out what put it there, and move it away; or give the program and this node's API server another path",
		"The program removes sockets that nobody serves, and nothing else. Another path takes a restart of this node's API server: on one node after the other, and only while KMS answers.",
	},
	PathUnusable: {"KMS0707", Failure, "no socket can be made or found at the path", "correct the path: each part before the last is a directory that the program's user may enter, and the directory of the socket one that it may write to too", ""},
	DeadSocket: {
		"KMS0708", Warning, "a socket is there that no process serves", "start the program on this node, with the configuration that the other nodes have: it replaces the socket",
		"The start waits for nothing: it serves while KMS does not answer too, and answers when KMS does. It is what a process leaves that was killed. Until the program runs, API servers are refused the connection.",
	},
	LooseDirectory: {
		"KMS0709", Warning, "every user of the node may replace the socket", "take the write permission of others away from the directory: chmod o-w",
		"Who may write to the directory may put a socket of their own in place, and is given what API servers want encrypted.",
	},
	SocketAccess: {"KMS0710", Warning, "the socket's mode or group is not what this configuration says", "look for what else changes the file; a running program takes mode and group over from its file of --config without a restart, and with flags at its next planned restart" + oneNode, ""},
	PluginSilent: {
		"KMS0711", Failure, "a process serves the socket and does not answer as a KMS plugin", "look at the log of the process: where it is this program, wait for its answer or follow what it says; only another program is to be stopped, on this node alone, and not while KMS does not answer",
		"The API server of this node depends on what serves the socket. The other nodes do not.",
	},
	PluginIll: {"KMS0712", Failure, "the running plugin reports a problem", "follow the code in the plugin's own words, and look at its log; restart neither it nor an API server of any node before that, least of all while KMS does not answer", ""},
	PluginOther: {
		"KMS0713", Warning, "the running plugin does not run with this configuration", "where this configuration writes with another key, context or alias, " + steps,
		"The instruction names the keys. A node that writes with a key which the others do not list makes data that they cannot read, so the steps are always those of [a new key](rotation.md#a-new-key): another encryption context, account or role is a new key too. " +
			"Key, encryption context and epoch are part of the key_id that the plugin answers, and are compared with this configuration's. Which keys it reads is asked at the health port of this configuration.",
	},
	EncryptionFile: {"KMS0714", Failure, "kube-apiserver would refuse the EncryptionConfiguration", "correct the file, and restart no API server with it on any node before that: it would not start", "An API server that runs goes on with the file that it read before. Leave it alone while KMS does not answer."},
	ProviderMissing: {
		"KMS0715", Failure, "no entry of the EncryptionConfiguration uses this provider's socket", "add a kms entry with this endpoint, below the present entries on all API servers first, or correct the endpoint of the entry that is meant: generate encryption-config writes both files" + oneAPIServer,
		"The endpoint is unix:// and the path of --listen. In a pod, both sides have to mount the directory at the same path.",
	},
	NameTwice: {
		"KMS0716", Failure, "two kms entries share a name", noStart + "give each its own name, and keep that of the one that has already stored data; a new name goes below on all API servers first" + oneAPIServer,
		"The name is stored with the data: kube-apiserver finds the provider by it. It refuses v2 entries that share one.",
	},
	NameRefused: {"KMS0717", Failure, "kube-apiserver does not take this name", noStart + "choose a name without a colon, and put it below on all API servers first; where an entry of KMS v1 has stored data under this name, keep that entry" + oneAPIServer, "The name stands between colons in etcd."},
	NotFirst: {
		"KMS0718", Warning, "another provider writes: new data is not encrypted by this program", "move the kms entry to the first place, once every API server reads with it" + oneAPIServer,
		"It is right for the first step of a migration, in which all API servers learn to read. With identity in the first place, new data is stored in the clear.",
	},
	OldAPI: {
		"KMS0719", Warning, "the entry uses KMS v1, which is deprecated and off by default", "let an entry with apiVersion: v2 and another name write: where there is none, add it below on all API servers first and then before this one; then rewrite the data, and take this entry out last" + oneAPIServer,
		"KMS v1 is deprecated since Kubernetes 1.28, and needs the feature gate KMSv1 since 1.29. https://kubernetes.io/docs/tasks/administer-cluster/kms-provider/",
	},
	CacheSmall: {
		"KMS0720", Warning, "cachesize is smaller than the number of objects", "raise cachesize above the number of objects that the entry encrypts" + oneAPIServer,
		"With KMS v1 each object has a DEK of its own: one that is not in the cache costs a call of KMS at each read.",
	},
	CacheRefused:   {"KMS0721", Failure, "kube-apiserver does not take this cachesize", noStart + "take cachesize out of entries of KMS v2; with v1 give a number other than 0" + oneAPIServer, ""},
	TimeoutRefused: {"KMS0722", Failure, "kube-apiserver does not take this timeout", noStart + "give a timeout above 0, such as 3s" + oneAPIServer, ""},
	TimeoutShort: {
		"KMS0723", Failure, "the entry's timeout leaves too little time for KMS", "raise the entry's timeout to 3s or more" + oneAPIServer,
		"The program keeps 300 ms of the timeout for its own answer. The time that calls took just now, and that, have to fit. " +
			"Under 3s, which is kube-apiserver's default, it is a warning although they fit: there is no time to repeat a call that hangs.",
	},
	HopLimit: {
		"KMS0724", Failure, "the instance metadata service accepts connections and gives no token: its answers end before they reach this process",
		"raise the hop limit: aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2 --instance-id INSTANCE, or run with hostNetwork" + oneNode,
		"The limit is 1 by default, which is enough on the host and in a pod with hostNetwork.",
	},
	SecretsPlain: {
		"KMS0725", Warning, "Secrets are stored in the clear", "put an entry that encrypts secrets, without a version or group, below on all API servers first, so that each can read what the first one writes, and only then in front: generate encryption-config writes both files" + oneAPIServer,
		"kube-apiserver takes the name of any resource, also of one that does not exist, and encrypts what has exactly that name.",
	},
	EndpointStrays: {
		"KMS0726", Warning, "an endpoint does not lead where it seems to", "write unix:// and then the whole path, which begins with a slash: three slashes in all" + oneAPIServer,
		"kube-apiserver reads the endpoint as a URL: what follows two slashes is a host, which it ignores.",
	},
	NameOnReload: {
		"KMS0727", Warning, "kube-apiserver refuses the file where automatic reload is on", "leave --encryption-provider-config-automatic-reload off, on every API server, until the entries are replaced by ones of KMS v2, each with a name of its own" + oneAPIServer,
		"With that flag it does not start with the file either. Without it, entries of KMS v1 may share a name. Do not rename one that has stored data: kube-apiserver finds the data by the name.",
	},
	KeyLacking: {
		"KMS0728", Warning, "this configuration lacks a key with which the running plugin reads", "keep the key below the others; take it out last of all, on one node after the other and not while KMS does not answer, when nothing stored and no backup of etcd needs it",
		"What was encrypted with that key cannot be read without it. See [when an old key may go](rotation.md#when-an-old-key-may-go).",
	},
	SocketLacking: {
		"KMS0729", Warning, "this configuration lacks a socket that the running plugin serves", "keep its provider as long as an EncryptionConfiguration names the socket; take the entry out there first" + oneAPIServer,
		"An API server whose entry leads to a socket that nobody serves neither reads nor writes with it, and does not become ready again after a restart.",
	},
	NotPermitted: {
		"KMS0730", Warning, "the user that doctor runs as may not look at it, which says nothing about the plugin", "run doctor as root, or as the user of the program or of the API server; change no owner and no mode for it",
		"Whoever may use the socket may have everything decrypted, so others are kept out on purpose. If it is the user that the program itself runs as, give that user the permission.",
	},
	TimeoutLong: {
		"KMS0731", Warning, "the API server waits far longer than the program does", "lower the entry's timeout to 3s, or raise --kms-timeout (kmsTimeout) where KMS needs that long" + oneAPIServer,
		"The program gives a call up after --kms-timeout, whatever time it was given. The longer time only counts where the program itself hangs: then each request to the API server that needs it waits that long, and so does a restart of the API server.",
	},
	FileNotTaken: {
		"KMS0732", Warning, "the running plugin has not taken its file over as it is now, and goes on with what it had", "mend what it names; the file is read again without a restart. Restart it on no node before that, nor while KMS does not answer: it would start with the file as it is, or not at all",
		"`/readyz?verbose` has the reason, and the log.",
	},
	NoWay: {
		"KMS0733", Failure, "the user that the API server runs as may not ask the plugin", "let that user in, and no others",
		"`--as-uid` asks as that user. It needs the right to search each directory on the way to the socket, to write to the socket, and to be named by `--allow-uid` where that is given. " +
			"A directory that the program or systemd makes is its user's alone. Each part of the way that keeps the user out is told with what lets it pass.",
	},
	UnitLacks: {
		"KMS0734", Failure, "the systemd unit may not read a file that doctor may", "give the file to the unit's user, and look as the unit does",
		"The unit of the package runs as root without capabilities: it reads the files of root and those of everybody, and no others. Started by sudo, doctor reads all of them. " +
			"The instruction has the command that runs doctor with the unit's user, capabilities and files.",
	},
	SocketTwice: {
		"KMS0735", Failure, "two providers have one socket, by links in its path", "give each provider a socket of its own, on every node and before it is restarted; not while KMS does not answer",
		"/var/run is a link to /run on most systems. The program serves the first and says of the second that it is in use.",
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
