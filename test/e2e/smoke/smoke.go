// Package smoke holds AWS KMS to what this program takes for granted, with the built
// program and one real key. Everything else in this repository is tested over an
// emulator; this reports whether the emulator is right about AWS.
//
// It makes no key, changes none and stores nothing: it encrypts, decrypts and asks by
// DryRun, some thirty calls in all, and leaves lines in CloudTrail. It must not run in
// CI against AWS. CI runs it over the emulator, so that it works when somebody needs it.
package smoke

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
)

// limit bounds a run. Each wait in it is shorter.
const limit = 5 * time.Minute

// Options are what a run needs. Credentials come from the environment, as the
// program's own do.
type Options struct {
	Program string // path of the built program
	Key     string // ARN of a symmetric key
	Out     io.Writer
}

// A run is one look at KMS.
type run struct {
	Options

	region string
	dir    string // for sockets and logs
	kms    *kms.Client

	main    *plugin // serves the key
	wrapped wrapped // what it wrapped, by v2
}

// Run does all checks, writes a line for each, and fails where one does. A check that
// needs what a failed one should have brought fails too.
func Run(ctx context.Context, o Options) (err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if os.Getenv("CI") != "" && os.Getenv("AWS_ENDPOINT_URL_KMS") == "" {
		return errors.New("this is CI, which has no business with a real key: AWS_ENDPOINT_URL_KMS can name an emulator, and a person can run make smoke-aws")
	}
	parsed, err := arn.Parse(o.Key)
	if err != nil || parsed.Service != "kms" || !strings.HasPrefix(parsed.Resource, "key/") {
		return fmt.Errorf("KEY is %q: want the ARN of a KMS key, such as arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", o.Key)
	}
	r := &run{Options: o, region: parsed.Region}
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(r.region))
	if err != nil {
		return err
	}
	r.kms = kms.NewFromConfig(cfg)
	if r.dir, err = os.MkdirTemp("", "kms-smoke-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	defer func() { err = errors.Join(err, r.main.stop()) }()
	return r.checks(ctx)
}

// A check says what it saw, or why that is not what the program relies on.
type check struct {
	name string
	do   func(ctx context.Context) (saw string, err error)
}

func (r *run) checks(ctx context.Context) error {
	failed := 0
	all := []check{
		{"v2: Status, Encrypt, Decrypt", r.roundTripV2},
		{"v1: Version, Encrypt, Decrypt", r.roundTripV1},
		{"the key_id names the key material", r.material},
		{"another encryption context opens nothing", r.wrongContext},
		{"changed ciphertext opens nothing", r.changedCiphertext},
		{"a pinned Decrypt opens nothing of another key", r.pinned},
		{"DryRun asks for permissions, without a ciphertext too", r.dryRun},
		{"a key that is not there is refused", r.refusedKey},
	}
	for _, c := range all {
		saw, err := c.do(ctx)
		if err != nil {
			failed++
			fmt.Fprintf(r.Out, "FAILED  %s: %v\n", c.name, err)
			continue
		}
		fmt.Fprintf(r.Out, "ok      %s: %s\n", c.name, saw)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed with %s", failed, len(all), r.Key)
	}
	return nil
}

// absent is an ARN like the key's that no key has.
func (r *run) absent() string {
	return r.Key[:strings.LastIndex(r.Key, "/")+1] + "00000000-0000-0000-0000-000000000000"
}

func yes() *bool { return aws.Bool(true) }
