package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/generate"
)

// generateFlags are the command's own, beside those of serving.
type generateFlags struct {
	output

	o            generate.Options
	from, fileAt string
}

func (f *generateFlags) define(set *pflag.FlagSet) {
	o := &f.o
	f.output.define(set)
	set.StringVar(&f.from, "from", "", "`FILE` with the EncryptionConfiguration that the API servers have now; default: they have none")
	set.StringSliceVar(&o.Resources, "resources", nil, "`RESOURCES` to encrypt, a comma list such as secrets,pandas.example.com or *.*; default: those of --from, or secrets")
	set.StringSliceVar(&o.Names, "name", nil, "`NAME` of the provider in the EncryptionConfiguration; several as a comma list; default: as in --from, or aws-encryption-provider")
	set.BoolVar(&o.KMSv1, "kms-v1", false, "write entries of KMS v1, which is deprecated")
	set.Int32Var(&o.CacheSize, "cachesize", generate.DefaultCacheSize, "`OBJECTS` whose keys an API server remembers; KMS v1 only")
	set.StringVar(&o.PathAt, "encryption-config-path", generate.DefaultEncConfig, "`PATH` of the EncryptionConfiguration on the node")
	set.StringVar(&f.fileAt, "config-path", "", "`PATH` of the file of --config on the node; default: as given, or "+generate.DefaultConfigAt)
	set.StringVar(&o.Image, "image", generate.DefaultImage, "`IMAGE` of the program")
	set.StringVar(&o.Program, "program", generate.DefaultProgram, "`PATH` of the program on the node, for systemd")
	set.StringArrayVar(&o.Env, "env", nil, "`NAME=VALUE` in the program's environment, such as AWS_CA_BUNDLE; repeats; directories of AWS' files are mounted")
	set.StringArrayVar(&o.Mounts, "mount", nil, "`PATH` of the node that the program reads; repeats")
	set.Int64Var(&o.RunAsUser, "run-as-user", 0, "`UID` that the container runs as; its directory has to be prepared")
}

func newGenerate(s Streams) *cobra.Command {
	var f generateFlags
	set, own, flags := besideServing(f.define)
	cmd := &cobra.Command{Use: "generate KIND [--out D]", Short: "write what goes with a configuration"}
	cmd.Flags().AddFlagSet(set)
	return parsed(cmd, func() { generateHelp(s, own) }, func(_ context.Context, args []string) error {
		var kind generate.Kind
		var mistakes config.Mistakes
		if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
			kind, mistakes = kindNamed(args[0])
			args = args[1:]
		} else {
			_, mistakes = kindNamed("")
		}
		flags.UseListen(kind.Socket)
		cfg, err := flags.Parse(args, s.LookupEnv)
		if errors.Is(err, pflag.ErrHelp) {
			return err
		}
		if more, ok := errors.AsType[config.Mistakes](err); ok {
			mistakes = append(mistakes, more...)
		}
		switch {
		case set.Changed("cachesize") && !f.o.KMSv1:
			mistakes = append(mistakes, config.Mistake{Field: "--cachesize", Text: "is of KMS v1 alone: give --kms-v1 too, or leave it out"})
		case f.o.CacheSize == 0:
			mistakes = append(mistakes, config.Mistake{Field: "--cachesize", Text: "must not be 0; below 0 nothing is remembered"})
		}
		if len(mistakes) > 0 {
			return mistakes
		}
		return f.run(s, kind, cfg, flags)
	})
}

func generateHelp(s Streams, own *pflag.FlagSet) {
	var kinds strings.Builder
	for _, k := range generate.Kinds() {
		fmt.Fprintf(&kinds, "  %-20s %s\n", k.Name, k.About)
	}
	fmt.Fprintf(s.Out, `Writes what goes with a configuration, for you to look through and install.
Changes no cluster and asks nothing of AWS.

With --out, what the flags of '%[1]s --help' say goes into config.yaml, and
the program is started with that file: it takes a changed one over by itself.

Usage:
  %[1]s generate KIND --key=ARN [flags]
  %[1]s generate KIND --config=FILE [flags]

Kinds:
%[2]s
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

Flags, besides those of '%[1]s --help':
%[3]s`, programName, kinds.String(), own.FlagUsages())
}

func kindNamed(name string) (generate.Kind, config.Mistakes) {
	var names []string
	for _, k := range generate.Kinds() {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	text := "say first what to generate: "
	if name != "" {
		text = fmt.Sprintf("there is no kind %.64q: want ", name)
	}
	return generate.Kind{}, config.Mistakes{{Text: text + strings.Join(names, ", ")}}
}

func (f *generateFlags) run(s Streams, kind generate.Kind, cfg *config.Config, flags *config.Flags) error {
	for _, w := range cfg.Warnings {
		fmt.Fprintf(s.Err, "%s: %s\n", programName, w)
	}
	o := f.o
	o.Config, o.Args, o.FileAt = cfg, flags.Args(), f.fileAt
	if source := flags.Source(); source != nil {
		data, err := config.ReadInTime(source.Path())
		if err != nil {
			return err
		}
		o.File = data
		if o.FileAt == "" && filepath.IsAbs(source.Path()) {
			o.FileAt = filepath.Clean(source.Path())
		}
	}
	if o.FileAt == "" {
		o.FileAt = generate.DefaultConfigAt
	}
	if f.dir != "" {
		o.Out = realPath(f.dir)
		if flags.Source() == nil && kind.Starts() {
			var err error
			if o.Made, o.Beside, err = flags.File(); err != nil {
				fmt.Fprintf(s.Err, "%s: the flags stay flags, so that no change is taken over without a restart: %s\n", programName, err)
			}
		}
	}
	if f.from != "" {
		data, err := config.ReadInTime(f.from)
		if err != nil {
			return fmt.Errorf("--from: %w", err)
		}
		if o.Present, err = f.present(s, data); err != nil {
			return err
		}
	}
	files, err := kind.Generate(o)
	if err != nil {
		return err
	}
	for _, w := range generate.Warnings(files) {
		fmt.Fprintf(s.Err, "%s: %s\n", programName, w)
	}
	if f.dir == "" {
		return printFiles(s, files)
	}
	return f.write(s, files)
}

// realPath is where a directory is, links followed as far as they are there.
func realPath(dir string) string {
	at, err := filepath.Abs(dir)
	if err != nil {
		return dir // without a working directory, which the writing finds out
	}
	for parent, rest := at, ""; ; parent, rest = filepath.Dir(parent), filepath.Join(filepath.Base(parent), rest) {
		if led, err := filepath.EvalSymlinks(parent); err == nil {
			return filepath.Join(led, rest)
		}
		if parent == filepath.Dir(parent) {
			return at
		}
	}
}

// present reads the file of --from. That no Secret is encrypted is told of what is
// made of it.
func (f *generateFlags) present(s Streams, data []byte) (*encryptionconfig.Configuration, error) {
	c, refused, warnings := encryptionconfig.Examine(data)
	if len(refused) > 0 {
		var mistakes config.Mistakes
		for _, m := range refused {
			mistakes = append(mistakes, config.Mistake{File: f.from, Line: m.Line, Field: m.Path, Text: m.Text})
		}
		return nil, mistakes
	}
	for _, w := range warnings {
		if w.Rule != encryptionconfig.Plain {
			fmt.Fprintf(s.Err, "%s: --from: %s: %s\n", programName, f.from, w)
		}
	}
	return c, nil
}

// printFiles writes all as one stream: documents of YAML, with their names.
func printFiles(s Streams, files []generate.File) error {
	for i, file := range files {
		head := ""
		if i > 0 && strings.HasSuffix(file.Name, ".yaml") {
			head = "---\n"
		} else if i > 0 {
			head = "\n"
		}
		if len(files) > 1 {
			head += "# File: " + file.Name + "\n#\n"
		}
		if _, err := fmt.Fprint(s.Out, head+file.Text); err != nil {
			return fmt.Errorf("printing what was generated: %w", err)
		}
	}
	return nil
}
