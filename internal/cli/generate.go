package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
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

	o                  generate.Options
	encryption, fileAt string
}

func (f *generateFlags) define(set *pflag.FlagSet) {
	o := &f.o
	f.output.define(set)
	set.StringVar(&f.encryption, "encryption-config", "", "`FILE` with the EncryptionConfiguration that the API servers have now; default: they have none")
	set.StringSliceVar(&o.Resources, "resources", nil, "`RESOURCES` to encrypt, a comma list such as secrets,pandas.example.com or *.*; default: those of --encryption-config, or secrets")
	set.StringSliceVar(&o.Names, "name", nil, "`NAME` of the provider in the EncryptionConfiguration; several as a comma list; default: as in --encryption-config, or aws-encryption-provider")
	set.BoolVar(&o.KMSv1, "kms-v1", false, "write entries of KMS v1, which is deprecated")
	set.Int32Var(&o.CacheSize, "cachesize", generate.DefaultCacheSize, "`OBJECTS` whose keys an API server remembers; KMS v1 only")
	set.StringVar(&o.PathAt, "encryption-config-path", generate.DefaultEncConfig, "`PATH` of the EncryptionConfiguration on the node")
	set.StringVar(&f.fileAt, "config-path", "", "`PATH` of the file of --config on the node; default: as given, or "+generate.DefaultConfigAt)
	set.StringVar(&o.Image, "image", "", "`IMAGE` of the program; default: what make image makes of this version, localhost/aws-encryption-provider:VERSION")
	set.StringVar(&o.Program, "program", generate.DefaultProgram, "`PATH` of the program on the node, for systemd")
	set.StringArrayVar(&o.Env, "env", nil, "`NAME=VALUE` in the program's environment, such as AWS_CA_BUNDLE; repeats; directories of AWS' files are mounted")
	set.StringArrayVar(&o.Mounts, "mount", nil, "`PATH` of the node that the program reads; repeats")
	set.Int64Var(&o.RunAsUser, "run-as-user", 0, "`UID` that the container runs as; its directory has to be prepared")
	config.Alias(set, "from", "encryption-config")
}

func newGenerate(s Streams) *cobra.Command {
	var f generateFlags
	set, own, flags := besideServing(f.define)
	cmd := &cobra.Command{Use: "generate KIND [--out D]", Short: "write what goes with a configuration"}
	cmd.Flags().AddFlagSet(set)
	for _, k := range generate.Kinds() {
		cmd.ValidArgs = append(cmd.ValidArgs, cobra.CompletionWithDesc(k.Name, k.About))
	}
	return parsed(cmd, func() { generateHelp(s, own) }, func(_ context.Context, args []string) error {
		words, args := config.SplitArgs(set, args)
		kind, mistakes := kindNamed(strings.Join(words[:min(1, len(words))], ""))
		args = append(args, words[min(1, len(words)):]...)
		flags.UseListen(kind.Socket)
		flags.UseHealth(kind.Health())
		cfg, err := parseFlags(cmd, s, flags, args)
		if errors.Is(err, pflag.ErrHelp) {
			return err
		}
		if more, ok := errors.AsType[config.Mistakes](err); ok {
			mistakes = append(mistakes, more...)
		}
		switch {
		case set.Changed("cachesize") && !f.o.KMSv1:
			mistakes = append(mistakes, config.Mistake{Field: "--cachesize", Text: "is of KMS v1 alone: give --kms-v1 too, or leave it out", Follows: true})
		case f.o.CacheSize == 0:
			mistakes = append(mistakes, config.Mistake{Field: "--cachesize", Text: "must not be 0; below 0 nothing is remembered"})
		}
		for _, stray := range config.StrayVariables(f.o.Env, everyFlag(cmd.Root())) {
			mistakes = append(mistakes, config.Mistake{Field: "--env", Text: stray.Field + " " + stray.Text + ", and the program does not start with it"})
		}
		if len(mistakes) > 0 {
			return mistakes
		}
		if !set.Changed("image") {
			v := version()
			f.o.Image = generate.Image(v.Version, v.FIPS)
		}
		return f.run(s, kind, cfg, flags)
	})
}

func generateHelp(s Streams, own *pflag.FlagSet) {
	var kinds strings.Builder
	for _, k := range generate.Kinds() {
		fmt.Fprintf(&kinds, "  %-20s %s\n", k.Name, k.About)
	}
	printHelp(s, help{
		about: `Writes what goes with a configuration, for you to look through and install.
Changes no cluster and asks nothing of AWS.

With --out, what the flags of 'aws-encryption-provider --help' say goes into
config.yaml, and the program is started with that file: it takes a changed one
over by itself.`,
		usage:    []string{"generate KIND --key=ARN [flags]", "generate KIND --config=FILE [flags]"},
		sections: []section{{"Kinds", kinds.String()}},
		examples: []string{
			"generate encryption-config --config=config.yaml",
			"generate static-pod --config=config.yaml --out=pods",
			`generate kubeadm --config=config.yaml \
      --encryption-config=/etc/kubernetes/encryption/config.yaml`,
		},
		exits: "0 done, 1 failed, 2 wrong usage or configuration.",
		flags: own, besides: true,
	})
}

// kindNamed returns the kind that is meant, or the mistake that it is none.
func kindNamed(name string) (generate.Kind, config.Mistakes) {
	names := kindNames()
	if i := slices.Index(names, name); i >= 0 {
		return generate.Kinds()[i], nil
	}
	text := "say first what to generate, such as static-pod: --help lists the kinds"
	if name != "" {
		text = unknown(fmt.Sprintf("kind %.32q", name), name, names)
	}
	return generate.Kind{}, config.Mistakes{{Text: text, Usage: true, Follows: name == ""}}
}

func kindNames() []string {
	var names []string
	for _, k := range generate.Kinds() {
		names = append(names, k.Name)
	}
	return names
}

func (f *generateFlags) run(s Streams, kind generate.Kind, cfg *config.Config, flags *config.Flags) error {
	warn(s, cfg.Warnings)
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
	var plain []string // what was told of the present file
	if f.encryption != "" {
		data, err := config.ReadInTime(f.encryption)
		if err != nil {
			return fmt.Errorf("--encryption-config: %w", err)
		}
		if o.Present, plain, err = f.present(s, data); err != nil {
			return err
		}
	}
	files, err := kind.Generate(o)
	if err != nil {
		return err
	}
	warn(s, slices.DeleteFunc(generate.Warnings(files), func(text string) bool { return slices.Contains(plain, text) }))
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

// present reads the file of --encryption-config, and tells what kube-apiserver takes of it
// although nobody can have meant it, whatever is made of it then.
func (f *generateFlags) present(s Streams, data []byte) (c *encryptionconfig.Configuration, plain []string, err error) {
	c, refused, warnings := encryptionconfig.Examine(data)
	if len(refused) > 0 {
		var mistakes config.Mistakes
		for _, m := range refused {
			mistakes = append(mistakes, config.Mistake{File: f.encryption, Line: m.Line, Field: m.Path, Text: m.Text})
		}
		return nil, nil, mistakes
	}
	for _, w := range warnings {
		fmt.Fprintf(s.Err, "%s: --encryption-config: %s: %s\n", programName, f.encryption, w)
		if w.Rule == encryptionconfig.Plain {
			plain = append(plain, w.Text)
		}
	}
	return c, plain, nil
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
