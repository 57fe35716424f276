package config_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

// TestArgs: what was given, in whatever way, can be given again by the command
// line alone.
func TestArgs(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		want []string
	}{
		"one key": {
			args: []string{"-key=alias/a", "-region", "us-west-2"},
			want: []string{"--key=alias/a", "--region=us-west-2"},
		},
		"lists and contexts": {
			args: []string{
				"--key", "alias/a,alias/b", "--listen=/run/a.sock", "--listen=/run/b.sock", "--region=us-west-2",
				"--encryption-context=a=b,c=d", "--encryption-context=[]", "--allow-uid=0", "--debug",
			},
			want: []string{
				"--key=alias/a,alias/b", "--listen=/run/a.sock,/run/b.sock", "--encryption-context=a=b,c=d", "--encryption-context=[]",
				"--region=us-west-2", "--allow-uid=0", "--debug=true",
			},
		},
		"environment": {
			args: []string{"--key=alias/a"},
			env:  map[string]string{"AWS_ENCRYPTION_PROVIDER_REGION": "us-west-2", "AWS_ENCRYPTION_PROVIDER_KMS_TIMEOUT": "1s", "AWS_ENCRYPTION_PROVIDER_OWN": "x"},
			want: []string{"--key=alias/a", "--region=us-west-2", "--kms-timeout=1s"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			parse := func(args []string, env map[string]string) (*config.Config, []string) {
				set := pflag.NewFlagSet("test", pflag.ContinueOnError)
				set.SortFlags = false
				flags := config.NewFlags(set)
				set.String("own", "", "a flag of the command that asks")
				cfg, err := flags.Parse(args, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
				if err != nil {
					t.Fatal(err)
				}
				return cfg, flags.Args()
			}
			cfg, got := parse(c.args, c.env)
			slices.Sort(c.want)
			sorted := slices.Sorted(slices.Values(got))
			if !slices.Equal(sorted, c.want) {
				t.Errorf("Args() of %q and %v = %q, want %q", c.args, c.env, got, c.want)
			}
			again, twice := parse(got, nil)
			if diff := cmp.Diff(cfg, again); diff != "" {
				t.Errorf("the configuration of %q is another one:\n%s", got, diff)
			}
			if !slices.Equal(twice, got) {
				t.Errorf("Args() of %q = %q, want the same", got, twice)
			}
		})
	}
}
