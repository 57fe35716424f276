package cli

import "github.com/spf13/cobra"

// Root is the tree of commands, for the page that lists their flags.
func Root() *cobra.Command { return newRoot(Streams{}) }
