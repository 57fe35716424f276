package cli

import "github.com/spf13/cobra"

// Fitting is what of a status line systemd is told.
func Fitting(text string) string { return fitting(text) }

// Root is the tree of commands, for the page that lists their flags.
func Root() *cobra.Command { return newRoot(Streams{}) }
