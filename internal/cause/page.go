package cause

import (
	"fmt"
	"strings"
)

// Page returns docs/errors.md: the table as a page for operators. grpcCode names the
// code that a caller over the socket sees for a class, and called what flags and file
// call a setting.
func Page(grpcCode func(Class) string, called Names) string {
	var b strings.Builder
	b.WriteString("# Error codes\n\n" +
		"Generated from `internal/cause` by `make generate`; do not edit.\n\n" +
		"Every failure carries one of these codes: in the error that kube-apiserver shows, in `Status`, on `/readyz`, and in the log field `code`. " +
		"`aws-encryption-provider explain KMS0104` prints the section of a code, without network. " +
		"A code never changes its meaning. What follows from a failure depends on its class:\n\n" +
		"| class | what it means | what the API server is told by Status | gRPC code |\n| --- | --- | --- | --- |\n")
	for _, c := range append(Classes(), Node) {
		meaning, told := c.describe()
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", c, meaning, told, grpcCode(c))
	}
	for _, c := range Codes() {
		info := c.Info()
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n- Class: `%s`\n- What to do: %s.\n", info.ID, sentence(info.What), info.Class, called.fillIn(placeholders(info.Next)))
		if info.Doc != "" {
			fmt.Fprintf(&b, "\n%s\n", info.Doc)
		}
		if c == AccessDenied {
			b.WriteString(denials())
		}
	}
	return b.String()
}

// denials is a table of what is said instead where AWS names the kind of policy.
func denials() string {
	var b strings.Builder
	b.WriteString("\nWhere AWS names the kind of policy, the text does too, and says what to do about that kind:\n\n" +
		"| AWS says | what to do |\n| --- | --- |\n")
	for _, p := range Policies() {
		if p == TrustPolicy { // of a role: see KMS0305
			continue
		}
		lacks, denies := Denial{By: p}, Denial{By: p, Explicit: true}
		fmt.Fprintf(&b, "| no %s allows | %s |\n| explicit deny in %s | %s |\n",
			p, placeholders(lacks.next()), article(string(p)), placeholders(denies.next()))
	}
	fmt.Fprintf(&b, "| the resource does not exist, or no resource-based policy allows | %s |\n", placeholders(Denial{By: ResourcePolicy, Unsure: true}.next()))
	return b.String()
}

func (c Class) describe() (meaning, told string) {
	switch c {
	case Refused:
		return "the key's owner or IAM says no", "an error with the cause, once a check confirmed it five seconds later; the API server stops writing three minutes later"
	case Outage:
		return "KMS, or the way to it, fails", "`ok` for `--outage-grace` since the last success, then the cause as a text; the API server goes on with what it has in memory"
	case Credentials:
		return "nothing valid to sign requests with", "as for an outage"
	case BadData:
		return "these bytes will never decrypt", "nothing: it says nothing about the key"
	case Cancelled:
		return "the caller left, or gave too little time", "nothing: it says nothing about the key"
	case Overload:
		return "more calls at once than the process takes", "nothing: Status is never refused for load"
	case Bug:
		return "nobody foresaw it", "as for an outage"
	case Node:
		return "the node keeps a socket from the process; of no call", "nothing: on that socket nobody can ask, on the others the API server is told of their keys"
	}
	return "", ""
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func placeholders(s string) string {
	return strings.NewReplacer("{key}", "KEY", "{cli}", "--key-id KEY --region REGION", "{action}", "ACTION", "{principal}", "ROLE",
		"{resource}", "KEY", "{policy}", "",
		"{source}", "the source of the credentials").Replace(s)
}
