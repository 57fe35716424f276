package cli

import (
	"github.com/spf13/cobra"
)

func newDev(s Streams) *cobra.Command {
	return &cobra.Command{Use: "dev", Short: "Try it out over a KMS emulator"}
}
