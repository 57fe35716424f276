package cli

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion(s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print version, commit and Go version", Args: noArguments, DisableFlagsInUseLine: true,
		RunE: func(*cobra.Command, []string) error {
			version, commit, goVersion := "unknown", "unknown", "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				goVersion = info.GoVersion
				if info.Main.Version != "" {
					version = info.Main.Version
				}
				for _, setting := range info.Settings {
					if setting.Key == "vcs.revision" {
						commit = setting.Value
					}
				}
			}
			fmt.Fprintf(s.Out, "%s %s\ncommit %s\n%s\n", programName, version, commit, goVersion)
			return nil
		},
	}
}
