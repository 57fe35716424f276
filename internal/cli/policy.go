package cli

import (
	"bytes"
	"context"
	"fmt"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/generate"
	"sigs.k8s.io/aws-encryption-provider/internal/policy"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// policyFlags are the command's own, beside those of serving.
type policyFlags struct {
	output

	principal string
	doctor    bool
}

func (f *policyFlags) define(set *pflag.FlagSet) {
	set.StringVar(&f.principal, "principal", "", "`ARN` of the role or user whose credentials the program has; default: not known, and only policies of identities are printed")
	set.BoolVar(&f.doctor, "doctor", false, "also what doctor asks: DescribeKey, GetKeyRotationStatus, and GetCallerIdentity by an endpoint")
	f.output.define(set)
}

func newPolicy(s Streams) *cobra.Command {
	var f policyFlags
	set, own, flags := besideServing(f.define)
	cmd := &cobra.Command{Use: "policy [--principal ARN]", Short: "print what AWS has to allow, and no more"}
	cmd.Flags().AddFlagSet(set)
	return parsed(cmd, func() { policyHelp(s, own) }, func(_ context.Context, args []string) error {
		cfg, err := parseFlags(cmd, s, flags, args)
		if err != nil {
			return err
		}
		documents, err := policy.Documents(policy.Options{Config: cfg, Principal: f.principal, Doctor: f.doctor})
		if err != nil {
			return err
		}
		if f.principal == "" {
			fmt.Fprintf(s.Err, "%s: policies of identities alone: --principal=ARN adds those of keys, roles and VPC endpoints\n", programName)
		}
		warn(s, policy.Notes(documents))
		if f.dir == "" {
			return printDocuments(s, documents)
		}
		return f.writeDocuments(s, documents)
	})
}

func policyHelp(s Streams, own *pflag.FlagSet) {
	const role = "arn:aws:iam::111122223333:role/control-plane"
	printHelp(s, help{
		about: `Prints what AWS has to allow for a configuration, and no more: the policies of
the program's identity and of the roles that it assumes, who may assume them,
the policies of the keys, and those of VPC endpoints. Asks nothing of AWS.`,
		usage: []string{"policy --key=ARN --principal=ARN [flags]", "policy --config=FILE --principal=ARN [flags]"},
		examples: []string{
			`policy --config=config.yaml \
      --principal=` + role,
			"policy --config=config.yaml --doctor --out=policies",
		},
		exits: "0 done, 1 failed, 2 wrong usage or configuration.",
		flags: own, besides: true,
	})
}

func printDocuments(s Streams, documents []policy.Document) error {
	text, err := indented(documents)
	if err == nil {
		_, err = s.Out.Write(text)
	}
	if err != nil {
		return fmt.Errorf("printing policies: %w", err)
	}
	return nil
}

func (f *policyFlags) writeDocuments(s Streams, documents []policy.Document) error {
	var files []generate.File
	for _, d := range documents {
		text, err := indented(d.Policy)
		if err != nil {
			return fmt.Errorf("writing policies: %w", err)
		}
		files = append(files, generate.File{Name: d.Name + ".json", Text: string(text)})
	}
	return f.write(s, files)
}

// indented is JSON for people: IAM takes < and & as they are, and nothing that is
// beyond U+00FF but by its number.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
func indented(v any) ([]byte, error) {
	var plain bytes.Buffer
	if err := report.JSON(&plain, v); err != nil {
		return nil, err
	}
	var out []byte
	for _, r := range plain.String() {
		if r <= unicode.MaxASCII {
			out = utf8.AppendRune(out, r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			out = fmt.Appendf(out, `\u%04x`, unit)
		}
	}
	return out, nil
}
