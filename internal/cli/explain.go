package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"sigs.k8s.io/aws-encryption-provider/docs"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/explain"
)

func newExplain(s Streams) *cobra.Command {
	cmd := &cobra.Command{
		Use: "explain [CODE|ALERT]", Short: "print the page of a code or an alert, without network",
		ValidArgsFunction: completeTopics,
	}
	return parsed(cmd, func() { explainHelp(s) }, func(_ context.Context, args []string) error {
		names, err := wordsAlone(args)
		switch {
		case err != nil:
			return err
		case len(names) == 0:
			return listTopics(s.Out)
		case len(names) == 1:
			return explainTopic(s, names[0])
		}
		return config.Mistakes{{Text: oneName(names), Usage: true}}
	})
}

// oneName says that there are several names, and which one they make together.
func oneName(names []string) string {
	text := fmt.Sprintf("explain takes one name, got %d", len(names))
	for _, between := range []string{"", "-"} {
		joined := strings.Join(names, between)
		if _, err := explain.Text(docs.Files(), joined, ""); err == nil {
			return fmt.Sprintf("%s; did you mean %.64s?", text, joined)
		}
	}
	return text + ": ask for one after the other"
}

func explainTopic(s Streams, name string) error {
	text, err := explain.Text(docs.Files(), name, s.DocsURL)
	if unknown, is := errors.AsType[*explain.UnknownError](err); is {
		text := unknown.Error()
		if len(unknown.Nearest) == 0 {
			text += fmt.Sprintf(": '%s explain' lists all names", programName)
		}
		return config.Mistakes{{Text: text, Usage: true}}
	}
	if err != nil {
		return fmt.Errorf("reading the pages: %w", err)
	}
	if _, err := io.WriteString(s.Out, text); err != nil {
		return fmt.Errorf("printing the page: %w", err)
	}
	return nil
}

func listTopics(w io.Writer) error {
	topics, err := explain.All(docs.Files())
	if err != nil {
		return fmt.Errorf("reading the pages: %w", err)
	}
	var b strings.Builder
	for _, group := range []struct {
		title  string
		topics []explain.Topic
	}{
		{"Codes of failing calls, which errors, Status, /readyz and the log carry:", topics.Codes},
		{"Codes that only doctor shows:", topics.Doctor},
		{"Codes that only status shows:", topics.Status},
		{"Alerts:", topics.Alerts},
		{"Pages:", topics.Pages},
	} {
		longest := 0
		for _, t := range group.topics {
			longest = max(longest, len(t.Name))
		}
		fmt.Fprintf(&b, "%s\n", group.title)
		for _, t := range group.topics {
			title := wrapped(t.Title, strings.Repeat(" ", longest+len("    ")))
			fmt.Fprintf(&b, "  %-*s  %s", longest, t.Name, strings.TrimLeft(title, " "))
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "'%s explain NAME' prints one of them.\n", programName)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("printing the names: %w", err)
	}
	return nil
}

// completeTopics gives a shell the names that begin with what was typed, in any case.
func completeTopics(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	topics, err := explain.All(docs.Files())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	if len(args) == 0 {
		for _, t := range topics.List() {
			if len(t.Name) >= len(typed) && strings.EqualFold(t.Name[:len(typed)], typed) {
				names = append(names, cobra.CompletionWithDesc(t.Name, t.Title))
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func explainHelp(s Streams) {
	printHelp(s, help{
		about: `Prints what the documentation says of a code that you read in an error, in
Status, on /readyz, in the log or from doctor, or the runbook of an alert. The
pages are a part of the program: no network is needed. Without a name it lists
all there are. The case of letters does not count.`,
		usage:    []string{"explain [CODE|ALERT|PAGE]"},
		examples: []string{"explain", "explain KMS0104", "explain EncryptionProviderKMSUnreachable", "explain kms-down"},
		exits:    "0 done, 1 failed, 2 no such name.",
	})
}
