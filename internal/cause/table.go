package cause

// A Code names one cause. Its number may change between builds; its ID never
// does.
type Code uint8

// Every cause. The comment of each group is the class that its members have
// with few exceptions; the table says which.
const (
	// Unforeseen is the zero value on purpose: an error without a code is a bug.
	Unforeseen Code = iota

	// The key's owner or IAM says no.
	KeyDisabled
	KeyPendingDeletion
	KeyNotFound
	AccessDenied
	GrantRefused
	KeyUsage
	KeyPendingImport

	// KMS, or the way to it, fails.
	Throttled
	KMSInternal
	TimedOut
	Unreachable
	NameResolution
	TLSFailed
	NotKMS
	KeyUnavailable
	RegionUnknown
	NoContact
	InDoubt

	// Nothing to sign the request with.
	NoCredentials
	CredentialsExpired
	CredentialsRefused
	SignatureRefused
	RoleRefused
	CredentialsSilent
	SettingsUnreadable
	SourceRefused
	NoRoleAttached
	TokenUnreadable
	TokenRefused
	TokenExpired
	NotASource
	ScopeRefused

	// No key will make anything of these bytes.
	EmptyCiphertext
	UnknownFormat
	CiphertextTooLong
	CiphertextInvalid
	NoKeyMadeIt
	ForeignKey
	PlaintextSize
	WrongVersion

	// The caller left.
	CallerLeft
	TooLittleTime

	// More than this process takes.
	TooManyCalls

	// The node keeps something from this process. Of no call.
	SocketNotHad

	// Ours to fix.
	WrongAnswer
	RoundTripBroken
	Panicked
)

// Info is what the table says of a code.
type Info struct {
	ID    string // "KMS0101": stable for ever
	Class Class
	What  string // what happened, in words that follow a colon
	Next  string // the next step; {key}, {cli}, {action}, {principal}, {source} and settings are filled in
	Doc   string // what else an operator wants to know, for docs/errors.md
}

// Info returns the table's row of the code.
func (c Code) Info() Info {
	if int(c) >= len(table) {
		return table[Unforeseen]
	}
	return table[c]
}

// String returns the ID.
func (c Code) String() string { return c.Info().ID }

// Codes returns every code, in the order of their IDs.
func Codes() []Code {
	codes := make([]Code, 0, len(table))
	for c := KeyDisabled; int(c) < len(table); c++ {
		codes = append(codes, c)
	}
	return append(codes, Unforeseen)
}

// What every instruction says that could be followed on one node of several, or
// while KMS does not answer.
const (
	// oneAPIServer is for a change that an API server takes by a restart or a reload:
	// it then asks KMS for everything again, and what it has in memory is gone.
	oneAPIServer = ", on one API server after the other, and on none while KMS does not answer"
	// whyOne is why.
	whyOne = "An API server that restarts, or reloads that file, needs KMS for all that it reads."
	// everyNode is for a key that reads: a node without it cannot read what the others write.
	everyNode = ", on every node, and never on top on one node alone"
	// lastOfAll is for an object that nothing reads any more.
	lastOfAll = "if no API server on any node still reads the object, restore it from a backup; delete it last of all, and never during an outage of KMS"
	// keepRunning is for a key that says no.
	keepRunning = "Restart no API server, on any node, before KMS answers and the key works again."
	// savedFirst is what comes before a deletion.
	savedFirst = "An API server that has run since before may still have the object in memory: ask each one directly, save what it answers, and write that back."
)

const runbookDisabled = "kube-apiserver keeps what it has unwrapped in memory, so reads go on for a while. " +
	"Its writes stop about three minutes after it hears of the refusal: what it would write could not be read after a restart. " +
	keepRunning

//nolint:gochecknoglobals // read-only: the table that the whole program speaks from
var table = [...]Info{
	KeyDisabled: {
		"KMS0101", Refused, "the key is disabled", "enable the key: aws kms enable-key {cli}",
		runbookDisabled,
	},
	KeyPendingDeletion: {
		"KMS0102", Refused, "the key is scheduled for deletion",
		"cancel the deletion before its date, after which nothing brings the key back: aws kms cancel-key-deletion {cli}, then aws kms enable-key {cli}",
		"After the waiting period of 7 to 30 days everything that needs this key is lost, backups of etcd included. " + runbookDisabled,
	},
	KeyNotFound: {
		"KMS0103", Refused, "KMS knows no such key in this account and Region",
		"check the key and its Region, and compare them with the other nodes' configuration; a key that was deleted cannot be brought back",
		"A key id or alias is looked up in the account of the caller; a key of another account must be named by its ARN. " + keepRunning,
	},
	AccessDenied: {
		"KMS0104", Refused, "access is denied", "grant {action} on {key} to {principal}, in IAM and in the key policy",
		"IAM is eventually consistent: a new grant may take a minute, and is then found without a restart. Check the key policy, IAM policies, service and resource control policies, " +
			"permissions boundary, session policy, VPC endpoint policy, and conditions on kms:EncryptionContext or kms:RequestAlias: this program names the key by its ARN once it is known. " + keepRunning,
	},
	GrantRefused: {
		"KMS0105", Refused, "the grant is not valid", "create a new grant on {key}, or allow {action} by policy", keepRunning,
	},
	KeyUsage: {
		"KMS0106", Refused, "the key is not a symmetric encryption key",
		"name the key with which the other nodes write, or else one with KeySpec SYMMETRIC_DEFAULT and KeyUsage ENCRYPT_DECRYPT that every node lists; no node may write with a key that the others do not list",
		"Nothing was ever encrypted with this key.",
	},
	KeyPendingImport: {
		"KMS0107", Refused, "the key has no key material", "import the same key material into {key} again: KMS takes no other",
		"Keys of origin EXTERNAL lose their material when it expires or is deleted. " + keepRunning,
	},
	Throttled: {
		"KMS0201", Outage, "KMS throttles the account's calls in this Region",
		"look for what else calls KMS in this account and Region, and ask AWS for a higher request quota",
		"Calls of other programs and clusters count against the same quota; calls with a key of another account count against the caller's. " +
			"KMS gives each answer a request id. Where there is none, a proxy or gateway in between may have said that there are too many calls; the text says so.",
	},
	KMSInternal: {
		"KMS0202", Outage, "KMS failed", "wait, and look at the AWS Health Dashboard if it lasts", "",
	},
	TimedOut: {
		"KMS0203", Outage, "KMS did not answer in time",
		"check the network path to the KMS endpoint: routes, security groups, VPC endpoint, proxy",
		"A call's limit is the API server's deadline less 300 ms, at most the timeout of the configuration; a hanging attempt is given up half-way and repeated on a new connection.",
	},
	Unreachable: {
		"KMS0204", Outage, "no connection to KMS",
		"check the network path to the KMS endpoint: routes, security groups, VPC endpoint, proxy", "",
	},
	NameResolution: {
		"KMS0205", Outage, "the name of the KMS endpoint cannot be resolved",
		"check the node's DNS, {setting:region} and {setting:endpoint}",
		"A static pod with hostNetwork uses the node's resolver; a cluster DNS that needs this API server cannot help it to start.",
	},
	TLSFailed: {
		"KMS0206", Outage, "the TLS handshake with KMS failed",
		"check CA certificates (AWS_CA_BUNDLE), a proxy that intercepts TLS, and the node's clock", "",
	},
	NotKMS: {
		"KMS0207", Outage, "what answered is not KMS", "check {setting:endpoint} and any proxy in between",
		"The text has the HTTP status of the answer. KMS gives each answer a request id: one without it that is empty, is not to the call, or is an error that KMS does not have comes from something else.",
	},
	KeyUnavailable: {
		"KMS0208", Outage, "KMS cannot use the key at the moment",
		"if it lasts, look at the key's state and at its custom or external key store: aws kms describe-key {cli}",
		"KMS reports a failing CloudHSM cluster or external key store proxy this way, and a key whose creation or update is not finished.",
	},
	RegionUnknown: {
		"KMS0209", Outage, "no AWS Region is known", "give {setting:region}, a key ARN, or AWS_REGION",
		"The Region is taken from the configuration, else the key's ARN, else the SDK's settings, else the instance metadata service, which did not answer. Say it in the file, on one node after the other: that takes no restart. A flag or variable takes one, so not in an outage of KMS.",
	},
	NoContact: {
		"KMS0210", Outage, "KMS has not been reached since this process started",
		"wait a few seconds; the log and /readyz say what it fails on if it lasts", "",
	},
	InDoubt: {
		"KMS0211", Outage, "checks of the key do not end, so nobody knows whether it works",
		"check the network path to the KMS endpoint and what stands between; checks go on, and the first that ends tells",
		"A check that does not end within its limit is left behind, and the next one begins. Three running put the provider in doubt: " +
			"it is not ready, and Status tells it after the grace, counted from the last success. " +
			"What is left behind is counted in aws_encryption_provider_waits_abandoned_total.",
	},
	NoCredentials: {
		"KMS0301", Credentials, "no AWS credentials were found",
		"give the process credentials: instance profile, environment, shared files, web identity or credential_process",
		"Where a source was named and asked, the text names it, and what to do about it. " +
			"A static pod can use no ServiceAccount. For an instance profile check the IMDS hop limit (2 for pods without hostNetwork). " +
			"What a `credential_process` prints is never shown: run it by hand.",
	},
	CredentialsExpired: {
		"KMS0302", Credentials, "the AWS credentials have expired", "renew the credentials, or use a source that renews them by itself", "",
	},
	CredentialsRefused: {
		"KMS0303", Credentials, "AWS does not know these credentials",
		"check the access key and session token; the key may have been deactivated or deleted", "",
	},
	SignatureRefused: {
		"KMS0304", Credentials, "AWS refused the request's signature",
		"check the node's clock (5 minutes off is too much) and the secret access key", "",
	},
	RoleRefused: {
		"KMS0305", Credentials, "the role could not be assumed",
		"check the role's trust policy, and the setting that names the role",
		"The text names the role and the setting that it comes from: the configuration, a profile, or the variables of a web identity. " +
			"STS answers the same to a role that does not exist, to an external id that is missing, and to a trust policy that does not let the caller in.",
	},
	CredentialsSilent: {
		"KMS0306", Credentials, "the source of the AWS credentials does not answer",
		"check the way to {source}",
		"It did not answer in time, could not be reached, throttles, or failed by itself. " +
			"For the instance metadata service check the hop limit (2 for pods without hostNetwork).",
	},
	SettingsUnreadable: {
		"KMS0307", Credentials, "the AWS settings cannot be read",
		"mend the shared config and credentials files, AWS_PROFILE, AWS_CA_BUNDLE, and FIPS or dual-stack with an endpoint of your own",
		"Nothing was sent: the settings contradict each other, name what is not there, or cannot be read.",
	},
	SourceRefused: {
		"KMS0308", Credentials, "the source of the AWS credentials gave none", "check {source}",
		"The EKS Pod Identity agent answers 400 to a token that is none, 403 to an address that it does not know, " +
			"and what the service behind it answered where there is no association. " +
			"An instance metadata service that answers 401 or 403 is disabled, or something in front of it says no.",
	},
	NoRoleAttached: {
		"KMS0309", Credentials, "the instance has no role",
		"attach an instance profile to the instance, or name another source of credentials; behind kube2iam or kiam, give the pod its role",
		"The instance metadata service is the last source that is asked, so this is also what a process sees that was given no other. A role that is attached later is found without a restart, by each node for itself, and while KMS is out too.",
	},
	TokenUnreadable: {
		"KMS0310", Credentials, "the token cannot be read, or is none",
		"check that {source} is there, is mounted into the container, can be read by this process's user, and is written by what renews it", "",
	},
	TokenRefused: {
		"KMS0311", Credentials, "STS refused the web identity token",
		"check {source}: its issuer has to be an identity provider in IAM, its audience one of that provider's, and its signature by a key that the issuer publishes", "",
	},
	TokenExpired: {
		"KMS0312", Credentials, "the web identity token has expired", "find out why {source} is not renewed, and check the node's clock", "",
	},
	NotASource: {
		"KMS0313", Credentials, "what answered is not the source of the AWS credentials",
		"find out what answers in place of {source}: a proxy (HTTP_PROXY, NO_PROXY), kube2iam, kiam or another program",
		"The answer was not of the form that the source has.",
	},
	ScopeRefused: {
		"KMS0314", Credentials, "the request was signed for another Region or service than the endpoint's",
		"give the endpoint's Region by {setting:region}, the key's ARN or AWS_REGION, and check {setting:endpoint}, AWS_ENDPOINT_URL_KMS and AWS_ENDPOINT_URL_STS",
		"The clock and the secret access key are right: AWS looks at the scope of a signature first. Say it in the file, on one node after the other: that takes no restart. A flag or variable takes one, so not in an outage of KMS.",
	},
	EmptyCiphertext: {
		"KMS0401", BadData, "the ciphertext is empty", lastOfAll, savedFirst,
	},
	UnknownFormat: {
		"KMS0402", BadData, "the ciphertext has an unknown format", "use the release that wrote it, or a later one, on every node, one node after the other and while KMS answers; if none did, the data is damaged",
		"The first byte names the format: 1 is direct. KMS v2 refuses the predecessor's first, bare form, which only KMS v1 ever stored.",
	},
	CiphertextTooLong: {
		"KMS0403", BadData, "the ciphertext is longer than KMS takes (6,144 bytes)", "the data is damaged: " + lastOfAll, savedFirst,
	},
	CiphertextInvalid: {
		"KMS0404", BadData, "the ciphertext is damaged, or its encryption context is another one",
		"compare the encryption context with what it was when the data was written, and with the other nodes'; if it was another one, list the key with that one below as well" + everyNode + "; else restore the object from a backup",
		"The encryption context must match exactly at Decrypt. Delete nothing before both were compared on every node, and nothing during an outage of KMS.",
	},
	NoKeyMadeIt: {
		"KMS0405", BadData, "no configured key made the ciphertext", "list the key that made it among those that read, by {setting:keys}" + everyNode,
		"Nothing is lost as long as that key exists: delete no object for it, and restart no API server that still reads it, least of all during an outage of KMS. KMS does not say which key made a ciphertext when a Decrypt names another. CloudTrail, the annotations of KMS v2 and a list of all keys ever used help to find it.",
	},
	ForeignKey: {
		"KMS0406", BadData, "the ciphertext was made by a key of another account or Region that is not configured",
		"if the key is yours, list it among those that read, by {setting:keys}" + everyNode + "; if not, somebody wrote this object into etcd", "Delete nothing for it during an outage of KMS: a key that is not asked says nothing.",
	},
	PlaintextSize: {
		"KMS0407", BadData, "the plaintext is empty or longer than KMS takes (4,096 bytes)", "the caller is no kube-apiserver: it sends 32 bytes", "",
	},
	WrongVersion: {
		"KMS0408", BadData, "the request names an API version that is not spoken here", "use kube-apiserver's KMS v1beta1 or v2", "",
	},
	CallerLeft: {
		"KMS0501", Cancelled, "the caller cancelled the call", "nothing, unless it lasts while KMS answers: then raise the timeout of the EncryptionConfiguration" + oneAPIServer, whyOne,
	},
	TooLittleTime: {
		"KMS0502", Cancelled, "the caller's deadline left too little time", "raise the timeout of the EncryptionConfiguration to 3s or more" + oneAPIServer, whyOne,
	},
	TooManyCalls: {
		"KMS0601", Overload, "too many calls are under way", "find out why KMS answers slowly, or what calls so often", "",
	},
	SocketNotHad: {
		"KMS0602", Node, "a provider's socket cannot be had",
		"mend what the text names, on this node alone: the socket is tried again by itself",
		"The providers whose sockets are served go on; where none can be served, a start ends with exit code 1. " +
			"The socket is tried again after 10 seconds and then up to a minute apart, and at once when the configuration file has been loaded again. " +
			"A reload that adds such a socket is not done, and tried again in the same way: what was served before is served. " +
			"No restart is needed for it. Where what has to be mended asks for one, do it on one node after the other, and while KMS answers.",
	},
	WrongAnswer: {
		"KMS0901", Bug, "KMS answered with something else than was asked for", "report it, with the request id", "",
	},
	RoundTripBroken: {
		"KMS0902", Bug, "what was just encrypted cannot be decrypted", "report it; restart no API server, on any node, before it is understood and KMS answers", "",
	},
	Panicked: {
		"KMS0903", Bug, "the call met a programming error", "report it, with the log's lines around it", "",
	},
	Unforeseen: {
		"KMS0999", Bug, "KMS answered with an error that nobody foresaw", "report it, with the error code and request id", "",
	},
}
