package cli

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

// buildVersion is what the build says of itself.
type buildVersion struct {
	Version, Commit, Go string

	FIPS bool // built with a version of Go's FIPS 140-3 module
}

// version reads the build info, which the linker writes: there is no variable
// that could be set wrong.
func version() buildVersion {
	v := buildVersion{Version: "unknown", Commit: "unknown", Go: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Go = info.GoVersion
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "GOFIPS140":
			v.FIPS = s.Value != "off"
		}
	}
	return v
}

func newVersion(s Streams) *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "print version, commit and Go version"}
	help := func() {
		printHelp(s, help{
			about: "Prints the version, the commit and the Go version, a line each.",
			usage: []string{"version"}, examples: []string{"version"}, exits: "0 done, 2 wrong usage.",
		})
	}
	return parsed(cmd, help, func(_ context.Context, args []string) error {
		words, err := wordsAlone(args)
		if err != nil {
			return err
		}
		if len(words) > 0 {
			return config.Mistakes{{Text: fmt.Sprintf("version takes no arguments, got %.64q", words[0]), Usage: true}}
		}
		printVersion(s)
		return nil
	})
}

func printVersion(s Streams) {
	v := version()
	fmt.Fprintf(s.Out, "%s %s\ncommit %s\n%s\n", programName, v.Version, v.Commit, v.Go)
}
