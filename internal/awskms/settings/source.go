package settings

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// A kind is one of source of credentials.
type kind int

const (
	unknownSource kind = iota
	keySource          // an access key as it stands in the environment or in a file
	containerSource
	podIdentitySource
	tokenSource // a web identity token, exchanged at STS
	metadataSource
	processSource
	ssoSource
	loginSource
	roleSource // a role, assumed at STS on top of another source
)

// A Source is where credentials were asked for, in words for the person who has
// to mend it.
type Source struct {
	kind    kind
	address string // that was asked, without what may be secret; "": none, or not known
	file    string // with the token; "": none
	role    string // ARN; "": none
	setting string // what names the source, safe to print
	profile string // "": the source is named elsewhere
}

// String names the source. It is safe to print.
func (s Source) String() string {
	at := ""
	if s.address != "" {
		at = " at " + cause.Quote(s.address)
	}
	switch s.kind {
	case unknownSource:
	case keySource:
		return "the access key of " + s.setting
	case containerSource:
		return "the endpoint for a container's credentials" + at + ", from " + s.setting
	case podIdentitySource:
		return "the EKS Pod Identity agent" + at + ", from " + s.setting
	case tokenSource:
		return "the web identity token in " + cause.Quote(s.file) + ", from " + s.setting
	case metadataSource:
		return "the instance metadata service" + at
	case processSource:
		return "credential_process of " + s.setting
	case ssoSource:
		return "IAM Identity Center" + at + ", from " + s.setting
	case loginSource:
		return "the session of aws login" + at + ", from " + s.setting
	case roleSource:
		return "STS" + at + ", for the role " + cause.Quote(s.role) + " of " + s.setting
	}
	return ""
}

// Role is the ARN of the role that is assumed; "": none.
func (s Source) Role() string { return s.role }

// NeedsAPerson reports whether the source is a session that a person begins, and that
// is kept in a file.
func (s Source) NeedsAPerson() bool { return s.kind == ssoSource || s.kind == loginSource }

// Service is who was asked, where that is not who was asked for: STS, for a token
// or a role.
func (s Source) Service() string {
	if (s.kind == tokenSource || s.kind == roleSource) && s.address != "" {
		return "STS at " + cause.Quote(s.address)
	}
	return s.String()
}

// Check is what to do about a source that gave nothing. It is safe to print.
func (s Source) Check() string {
	switch s.kind {
	case unknownSource:
	case keySource:
		return "check the access key of " + s.setting
	case containerSource:
		return "check " + s.setting + ", the authorization token that goes with it, and the log of what answers there"
	case podIdentitySource:
		return "check the pod identity association of the pod's ServiceAccount, the trust policy of its role (pods.eks.amazonaws.com), and the agent's log"
	case tokenSource:
		return "check " + s.setting + ", and that the trust policy of the role " + cause.Quote(s.role) + " lets issuer, audience and subject of the token in"
	case metadataSource:
		return "check that the instance metadata service is enabled, that its hop limit is 2 for pods without hostNetwork, and what stands in front of it (kube2iam, kiam, a network policy)"
	case processSource:
		return "run credential_process of " + s.setting + " by hand, as this process's user and without standard input, and mend it"
	case ssoSource:
		return "log in again (aws sso login), or use a source that needs no person"
	case loginSource:
		return "log in again (aws login), or use a source that needs no person"
	case roleSource:
		return "check the role's trust policy, and " + s.setting
	}
	return ""
}

// Sources are what the SDK's settings say of where credentials come from.
type Sources struct {
	env      config.EnvConfig
	profiles []config.SharedConfig // the one in use, then those that source_profile leads through
	role     string                // of --assume-role-arn; "": none
	unread   *UnreadError          // a shared file that may not be read; nil: none
}

// read takes over the settings that the SDK has read.
func (o *Sources) read(cfg aws.Config) {
	for _, from := range cfg.ConfigSources {
		switch c := from.(type) {
		case config.EnvConfig:
			o.env = c
		case config.SharedConfig:
			for p := &c; p != nil; p = p.Source {
				o.profiles = append(o.profiles, *p)
			}
		}
	}
	if len(o.profiles) == 0 {
		o.profiles = []config.SharedConfig{{}}
	}
}

// Nowhere are the sources of settings that were not read.
func Nowhere() *Sources { return &Sources{profiles: []config.SharedConfig{{}}} }

// Unread is a shared file that this user may not read; nil: there is none.
func (o *Sources) Unread() *UnreadError { return o.unread }

// PassedOver is the path of a shared file that may not be read and may name another
// source than the one that was found; "": there is none.
func (o *Sources) PassedOver() string {
	if o.unread == nil || !o.SearchedInVain(nil) {
		return ""
	}
	return o.unread.path
}

// Process is the credential_process.
func (o *Sources) Process() Source {
	s := o.Base()
	s.kind = processSource
	return s
}

// last is the profile that gives the credentials that roles are assumed with.
func (o *Sources) last() config.SharedConfig { return o.profiles[len(o.profiles)-1] }

// Base is the source at the bottom, below any role that is assumed with what it
// gives. The order is the SDK's (resolveCredentialChain in config).
func (o *Sources) Base() Source {
	switch {
	case o.env.Credentials.HasKeys():
		return Source{kind: keySource, setting: "the environment (AWS_ACCESS_KEY_ID)"}
	case o.env.WebIdentityTokenFilePath != "":
		return o.token()
	}
	last := o.last()
	named := Source{setting: profileText(last.Profile), profile: last.Profile}
	switch {
	case last.Credentials.HasKeys():
		named.kind = keySource
	case last.CredentialSource == "EcsContainer":
		return o.container()
	case last.CredentialSource == "Environment":
		return Source{kind: keySource, setting: "the environment (AWS_ACCESS_KEY_ID)"}
	case last.CredentialSource != "":
		return o.Metadata()
	case last.WebIdentityTokenFile != "":
		return o.token()
	case last.SSOSession != nil || last.SSOAccountID != "" || last.SSOStartURL != "":
		named.kind = ssoSource
	case last.LoginSession != "":
		named.kind = loginSource
	case last.CredentialProcess != "":
		named.kind = processSource
	case o.env.ContainerCredentialsRelativePath != "", o.env.ContainerCredentialsEndpoint != "":
		return o.container()
	default:
		return o.Metadata()
	}
	return named
}

// Top is the source of what calls are signed with.
func (o *Sources) Top() Source {
	base := o.Base()
	switch role := o.profiles[0].RoleARN; {
	case o.role != "":
		return o.assumed(o.role)
	case role != "" && base.kind != tokenSource && o.ofProfile():
		return o.assumed(role)
	}
	return base
}

// ofProfile reports whether the profile in use counts: the environment goes first.
func (o *Sources) ofProfile() bool {
	return !o.env.Credentials.HasKeys() && o.env.WebIdentityTokenFilePath == ""
}

// Slowest is the source to name where a look-up found nothing in time, and what
// it waited for is not known.
func (o *Sources) Slowest() Source {
	if s := o.Base(); s.kind != keySource {
		return s
	}
	return o.Top()
}

func (o *Sources) token() Source {
	if o.env.WebIdentityTokenFilePath != "" {
		return Source{
			kind: tokenSource, file: o.env.WebIdentityTokenFilePath, role: o.env.RoleARN,
			setting: "AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN",
		}
	}
	last := o.last()
	return Source{
		kind: tokenSource, file: last.WebIdentityTokenFile, role: last.RoleARN, profile: last.Profile,
		setting: "web_identity_token_file and role_arn of " + profileText(last.Profile),
	}
}

// ecsAddress is where AWS_CONTAINER_CREDENTIALS_RELATIVE_URI leads.
//
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
const ecsAddress = "http://169.254.170.2"

func (o *Sources) container() Source {
	s := Source{
		kind: containerSource, setting: "AWS_CONTAINER_CREDENTIALS_FULL_URI", address: withoutSecrets(o.env.ContainerCredentialsEndpoint),
	}
	if path := o.env.ContainerCredentialsRelativePath; path != "" {
		s.setting, s.address = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", withoutSecrets(ecsAddress+path)
	}
	if isPodIdentity(s.address) {
		s.kind = podIdentitySource
	}
	return s
}

// isPodIdentity knows the agent by its addresses, or by the token that EKS mounts
// for it.
//
// https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html
func isPodIdentity(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return ip.Equal(net.ParseIP("169.254.170.23")) || ip.Equal(net.ParseIP("fd00:ec2::23")) ||
		strings.Contains(os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"), "eks-pod-identity")
}

// Metadata is the instance metadata service, where the settings say that it is.
func (o *Sources) Metadata() Source {
	s := Source{kind: metadataSource}
	mode := cmp.Or(o.env.EC2IMDSEndpointMode, o.profiles[0].EC2IMDSEndpointMode)
	usual := "http://169.254.169.254"
	if mode == imds.EndpointModeStateIPv6 {
		usual = "http://[fd00:ec2::254]"
	}
	s.address = withoutSecrets(cmp.Or(o.env.EC2IMDSEndpoint, o.profiles[0].EC2IMDSEndpoint, usual))
	return s
}

// assumed is the source of a role that is assumed with other credentials.
func (o *Sources) assumed(role string) Source {
	s := Source{kind: roleSource, role: role}
	if role == o.role {
		s.setting = "--assume-role-arn and --external-id"
		return s
	}
	for _, p := range o.profiles {
		if p.RoleARN == role {
			s.profile = p.Profile
			break
		}
	}
	s.setting = "role_arn and external_id of " + profileText(cmp.Or(s.profile, o.profiles[0].Profile))
	return s
}

// profileText names a profile and the files that it may stand in. The SDK reads
// both as one, and does not tell which of them a value came from.
func profileText(profile string) string {
	return fmt.Sprintf("profile %s in %s", cause.Quote(cmp.Or(profile, "default")), strings.Join(sharedFiles(), " or "))
}

// sharedFiles are the shared configuration files that exist, quoted; both, where
// none does.
func sharedFiles() []string {
	var all, found []string
	for _, path := range sharedPaths() {
		all = append(all, cause.Quote(path))
		if _, err := os.Stat(path); err == nil {
			found = append(found, cause.Quote(path))
		}
	}
	if len(found) == 0 {
		return all
	}
	return found
}

// sharedPaths are where the SDK looks for its shared configuration files.
func sharedPaths() []string {
	return []string{
		cmp.Or(os.Getenv("AWS_CONFIG_FILE"), config.DefaultSharedConfigFilename()),
		cmp.Or(os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), config.DefaultSharedCredentialsFilename()),
	}
}

// withoutSecrets is an address without what may be secret in it: a password, and
// a query, which may carry a token.
func withoutSecrets(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// SearchedInVain reports whether the search for credentials went past the shared files
// to what comes after them: a container's credentials, where the file that may not be
// read was named, and in the end the instance metadata service. What it ended with there
// says nothing about the source that a file may name. asked is the call that failed;
// nil: none did.
func (o *Sources) SearchedInVain(asked *AskedError) bool {
	kind := o.Base().kind
	past := kind == metadataSource || kind == containerSource && o.unread.named
	return past && o.last().CredentialSource == "" && (asked == nil || asked.Source.kind == kind)
}
