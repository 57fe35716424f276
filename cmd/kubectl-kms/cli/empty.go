package cli

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/kube"
)

var errEmpty = errors.New("it is empty: give a value, or leave the flag out")

// refuseEmpty refuses flags that were given without a value, such as that of a variable
// which is not set: what they ask, or keep out, would vanish. kubectl's own mean what they
// mean to kubectl.
func refuseEmpty(cmd *cobra.Command) error {
	kubectls := pflag.NewFlagSet("kubectl", pflag.ContinueOnError)
	kube.NewFlags().Define(kubectls)
	var mistakes []string
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		if kubectls.Lookup(flag.Name) == nil && isEmpty(flag) {
			mistakes = append(mistakes, "--"+flag.Name+": "+errEmpty.Error())
		}
	})
	if len(mistakes) == 0 {
		return nil
	}
	return &usageError{mistakes, cmd.CommandPath()}
}

func isEmpty(flag *pflag.Flag) bool {
	if list, ok := flag.Value.(pflag.SliceValue); ok {
		return len(list.GetSlice()) == 0 || slices.Contains(list.GetSlice(), "")
	}
	return flag.Value.Type() == "string" && strings.TrimSpace(flag.Value.String()) == ""
}
