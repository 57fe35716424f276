package cli

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/inquiry"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

type statusFlags struct {
	inquiry.Question

	output string
}

func newStatus(s Streams) *cobra.Command {
	var f statusFlags
	set := pflag.NewFlagSet("status", pflag.ContinueOnError)
	set.SortFlags = false
	set.StringVar(&f.Socket, "listen", config.DefaultSocket, "unix `SOCKET` that the plugin serves on: a path, or @name for an abstract one")
	set.StringVarP(&f.output, "output", "o", "text", "`FORM` of the output: text or json")
	set.StringVar(&f.ExpectKeyID, "expect-key-id", "", "`KEY_ID` that the plugin has to answer: as it is, as sha256:HEX, or the key's ARN alone")
	set.StringVar(&f.Health, "health-address", "", "`ADDRESS` of the health port, such as :8080, to tell of each key too, those that only read included")
	set.DurationVar(&f.Timeout, "timeout", 3*time.Second, "`TIME` that each call may take, as in an EncryptionConfiguration")
	config.Alias(set, "socket", "listen")
	config.Alias(set, "health-port", "health-address")
	offer(set, "output", "text", "json")
	cmd := &cobra.Command{Use: "status [flags]", Short: "ask a running one over its socket", SuggestFor: []string{"ping", "state"}}
	cmd.Flags().AddFlagSet(set)
	help := func() {
		printHelp(s, help{
			about: `Asks a running plugin over its socket, as an API server does: Status, and a
round trip of each API. Says of each fault its code, its cause and what to do.
Runs as whoever may open the socket, and changes nothing. Status tells of the
key that writes; with --health-address each key is told, and one that only reads
and cannot be used is a problem.`,
			usage: []string{"status [flags]"},
			examples: []string{
				"status",
				"status --listen=/run/kmsplugin/socket.sock -o json",
				"status --health-address=:8080",
			},
			exits: "0 all is well, 1 failed, 2 wrong usage, 3 something is not well.",
			flags: set,
		})
	}
	return parsed(cmd, help, func(ctx context.Context, args []string) error {
		if err := config.ParseArgs(set, args); err != nil {
			return err
		}
		if f.output != "text" && f.output != "json" {
			return config.Mistakes{{Field: "--output", Text: fmt.Sprintf("%.64q is neither text nor json", f.output)}}
		}
		if f.Timeout <= 0 {
			return config.Mistakes{{Field: "--timeout", Text: "must be longer than 0"}}
		}
		if _, _, err := net.SplitHostPort(f.Health); f.Health != "" && err != nil {
			return config.Mistakes{{Field: "--health-address", Text: fmt.Sprintf("%.64q is not an address: want :PORT or HOST:PORT", f.Health)}}
		}
		f.Socket = config.SocketPath(f.Socket)
		ctx, stop := untilSignal(ctx, s)
		defer stop()
		r := inquiry.Ask(ctx, f.Question)
		if err := printReport(s, r, f.output); err != nil {
			return fmt.Errorf("printing the result: %w", err)
		}
		if len(r.Problems) > 0 {
			return errFound
		}
		return nil
	})
}

func printReport(s Streams, r *inquiry.Report, form string) error {
	if form == "json" {
		return report.JSON(s.Out, r)
	}
	lines := report.NewPairs(len("key_id hash") + 2) //nolint:mnd // columns
	line := lines.Add
	trip := func(version string, seconds float64) string {
		if seconds == 0 {
			return version
		}
		return fmt.Sprintf("%s, round trip in %s", version, time.Duration(seconds*float64(time.Second)).Round(10*time.Microsecond))
	}
	line("socket", r.Socket)
	line("healthz", r.Healthz)
	line("key_id", r.KeyID)
	line("key_id hash", r.KeyIDHash)
	line("v2", trip(r.V2Version, r.V2RoundTrip))
	line("v1", trip(r.V1Version, r.V1RoundTrip))
	line("runtime", r.V1Runtime)
	if r.Grace != nil {
		line("grace", r.Grace.String())
	}
	for i, text := range r.Readyz {
		name := ""
		if i == 0 {
			name = "readyz"
		}
		line(name, text)
	}
	for _, f := range r.Findings {
		line("problem", f.Code+": "+f.Cause)
		line("", "do: "+f.Next)
		line("", "see "+cause.Explain(f.Code))
	}
	if r.OK {
		line("result", "ok")
	} else {
		line("result", "not ok: "+plural(len(r.Findings), "problem", "problems"))
	}
	return lines.Print(s.Out)
}
