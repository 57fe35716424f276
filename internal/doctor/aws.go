package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

const (
	// skewTold is far enough for a person to look, and well below the five minutes
	// at which AWS refuses signatures.
	skewTold = time.Minute
	skewMost = 5 * time.Minute
	// describing bounds a look that the daemon does without.
	describing = 3 * time.Second
)

// A stage is what a call of KMS needs, in order. A call that fails has come
// through the ones before.
type stage int

const (
	atCredentials stage = iota // to sign the request with: looked for before it is sent
	atEndpoint
	atClock
	atIdentity // AWS knows them
	atKey
	atPermission
)

// A failure is a call's, and the stage at which it ended.
type failure struct {
	at  stage
	err *cause.Error
}

// newFailure says at which stage a call ended that took this way.
func newFailure(err error, way awskms.Contact) *failure {
	e := cause.Of(err)
	return &failure{stageOf(e, way), e}
}

func stageOf(e *cause.Error, way awskms.Contact) stage {
	ofKey := []cause.Code{
		cause.KeyDisabled, cause.KeyPendingDeletion, cause.KeyNotFound, cause.KeyUsage, cause.KeyPendingImport, cause.KeyUnavailable,
		cause.GrantRefused,
	}
	switch {
	case slices.Contains(ofKey, e.Code):
		return atKey
	case e.Code == cause.AccessDenied, e.Code == cause.Throttled:
		return atPermission
	case e.Code == cause.SignatureRefused && way.Skew().Abs() > skewMost-skewTold:
		return atClock
	case e.Class() != cause.Credentials, e.Code == cause.ScopeRefused && way.Answered:
		return atEndpoint
	case way.Answered:
		return atIdentity
	}
	return atCredentials
}

func seed() []byte {
	const size = 32 // a DEK's
	b := make([]byte, size)
	_, _ = rand.Read(b) // never fails, by its contract
	return b
}

// call makes the first call with a key, which tells nearly everything.
func (p *patient) call(ctx context.Context) {
	credential, err := p.client.Credential(ctx)
	if err != nil {
		p.failure = newFailure(err, awskms.Contact{})
		return
	}
	p.credential = credential
	traced, way := awskms.Traced(ctx)
	if p.writes {
		p.sealed, err = p.client.Encrypt(traced, awskms.Call{}, p.key.Key, seed())
		p.arn = p.sealed.KeyARN
	} else {
		err = p.mayDecrypt(traced)
	}
	p.contact = way()
	if err != nil {
		p.failure = newFailure(err, p.contact)
	}
}

// mayDecrypt asks about a key that only reads. It may have been given no more than the
// right to decrypt, and is never encrypted with: what it encrypted would have to be read
// as long as that is stored. Of a KMS that does not know the request nothing is known.
func (p *patient) mayDecrypt(ctx context.Context) error {
	err := p.client.MayDecrypt(ctx, p.key.Key, nil)
	if err == nil {
		return nil
	}
	if class := cause.ClassOf(err); class == cause.Bug || class == cause.BadData {
		p.unasked = true
		return nil
	}
	return err
}

// endsAt reports whether the key's call ended at one of the stages.
func (p *patient) endsAt(stages ...stage) bool {
	return p.failure != nil && slices.Contains(stages, p.failure.at)
}

// cameTo reports whether the key's call reached a stage that it needs to be looked at.
func (p *patient) cameTo(s stage) bool { return p.failure == nil || p.failure.at >= s }

func (p *patient) String() string {
	return fmt.Sprintf("provider %q, key %s", p.provider.Name, p.key.Key)
}

// whyNot is the line for what depends on a call that failed before.
func (p *patient) whyNot() string {
	return fmt.Sprintf("%s: not checked, because of %s", p, p.failure.err.Code)
}

func (x *examination) endpoints(ctx context.Context, g *Group) {
	x.conns = awskms.NewConnections()
	x.admit(x.conns)
	for _, p := range x.keys {
		x.asking(p)
		p.call(ctx)
		switch way := p.contact; {
		case p.endsAt(atEndpoint):
			g.failed(fmt.Sprintf("%s: calls of KMS%s fail", p, at(way.Host)), p.failure.err)
		case !p.cameTo(atEndpoint):
			g.skipped(p.whyNot())
		default:
			g.once(fmt.Sprintf("%s answers (%s)", way.Host, join(way.Address, way.TLS, way.Group)))
		}
	}
}

func at(host string) string {
	if host == "" {
		return ""
	}
	return " at " + host
}

func (x *examination) clock(_ context.Context, g *Group) {
	for _, p := range x.keys {
		skew := p.contact.Skew()
		switch {
		case p.endsAt(atClock):
			g.failed(fmt.Sprintf("the clock is off by %s from that of %s", skew, p.contact.Host), p.failure.err)
		case !p.cameTo(atClock):
			g.skipped(p.whyNot())
		case skew.Abs() >= skewTold:
			g.found(ClockOff, fmt.Sprintf("the clock is off by %s from that of %s", skew, p.contact.Host), "")
		case p.contact.Date.IsZero():
			g.once(p.contact.Host + " does not tell the time")
		default:
			g.once("the clock agrees with that of " + p.contact.Host)
		}
	}
}

func (x *examination) credentials(ctx context.Context, g *Group) {
	x.unitReads(g)
	outOfReach := sync.OnceValue(func() bool { return awskms.MetadataOutOfReach(ctx) })
	owners := map[string]string{} // by access key id
	for _, p := range x.keys {
		if p.credential.Source != "" {
			until := "without a known end"
			if !p.credential.Expires.IsZero() {
				until = "until " + p.credential.Expires.UTC().Format(time.RFC3339)
			}
			g.once(fmt.Sprintf("found: %s, access key id %s, %s", p.credential.Source, p.credential.AccessKeyID, until))
			x.passedOver(g, p)
		}
		switch {
		case p.endsAt(atCredentials) && kept(p.failure.err):
			x.keptFromUs(g, p)
		case p.endsAt(atCredentials) && ofTheInstance(p.failure.err) && outOfReach():
			g.found(HopLimit, p.String()+": no credentials come from the instance metadata service", said(p.failure.err))
		case p.endsAt(atCredentials):
			g.failed(p.String()+": there are no credentials to sign calls with", p.failure.err)
		case p.endsAt(atIdentity):
			g.failed(p.String()+": AWS does not take the credentials", p.failure.err)
		case !p.cameTo(atIdentity):
			g.skipped(p.whyNot())
		default:
			id := p.credential.AccessKeyID
			if owners[id] == "" {
				owners[id] = p.owner(ctx)
			}
			g.once(owners[id])
		}
	}
}

// ofTheInstance reports whether credentials were to come from the instance metadata
// service, or from nowhere else: where another source was asked, that is at fault.
func ofTheInstance(e *cause.Error) bool {
	return e.Source == "" && e.Code != cause.SettingsUnreadable || strings.Contains(e.Source, "instance metadata service")
}

// kept reports whether credentials are in a file that a user other than root may not
// read. The SDK keeps the text alone of some errors.
func kept(e *cause.Error) bool {
	ofFile := e.Code == cause.TokenUnreadable || e.Code == cause.SettingsUnreadable
	return ofFile && os.Geteuid() != 0 && (errors.Is(e.Err, fs.ErrPermission) || strings.Contains(e.Said, syscall.EACCES.Error()))
}

// keptFromUs tells of credentials that another user may read.
func (x *examination) keptFromUs(g *Group, p *patient) {
	g.advise(NotPermitted, p.String()+": the credentials cannot be read", asUser(join(p.failure.err.Source, said(p.failure.err))), x.asWhom())
}

// asWhom is as whom to run doctor, where it may not read what the program reads.
func (x *examination) asWhom() string {
	u := x.unit()
	if u == nil {
		return NotPermitted.Info().Next
	}
	return "run doctor as root, or as the unit does: " + u.command(x.Config.File) + "; change no owner and no mode for it"
}

// passedOver tells where credentials were found in another place than the program's user
// may find them.
func (x *examination) passedOver(g *Group, p *patient) {
	if file := p.credential.PassedOver; file != "" {
		g.advise(NotPermitted, "the program may have other credentials: "+file+" cannot be read", asUser(syscall.EACCES.Error()), x.asWhom())
	}
}

// owner asks STS whose the credentials are, which the daemon does without: no answer is no fault.
func (p *patient) owner(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, describing)
	defer cancel()
	caller, err := p.client.Caller(ctx)
	if err != nil {
		return "whose they are is not known, since STS does not answer, which the program does not need"
	}
	return fmt.Sprintf("they are those of %s (account %s)", caller.ARN, caller.Account)
}

func (x *examination) describe(ctx context.Context, g *Group) {
	for _, p := range x.keys {
		switch {
		case p.endsAt(atKey):
			g.failed(p.String()+": it cannot be used", p.failure.err)
		case !p.cameTo(atKey):
			g.skipped(p.whyNot())
		default:
			x.asking(p)
			p.describe(ctx, g)
		}
	}
}

// describe asks for what the daemon does not need to know. A refusal is a note.
func (p *patient) describe(ctx context.Context, g *Group) {
	info, err := p.client.DescribeKey(ctx, p.key.Key)
	if err != nil {
		p.undescribed(g, err)
		return
	}
	if code, ok := unfit(info); ok {
		p.failure = &failure{atKey, &cause.Error{Code: code, Key: string(info.ARN), Said: join(info.Spec, info.Usage, info.State)}}
		g.failed(p.String()+": it cannot be used", p.failure.err)
		return
	}
	p.arn, p.enabled = info.ARN, info.State == "Enabled"
	kind := ""
	if info.MultiRegion {
		kind = "multi-Region"
	}
	resolved := ""
	if string(info.ARN) != p.key.Key {
		resolved = "is " + string(info.ARN)
	}
	g.ok(fmt.Sprintf("%s: %s", p, join(resolved, "symmetric", strings.ToLower(info.State), kind)))
	p.rotation(ctx, g, info)
}

// undescribed tells a refusal as a note, since the daemon needs no DescribeKey.
func (p *patient) undescribed(g *Group, err error) {
	if e := cause.Of(err); e.Code != cause.AccessDenied {
		g.failed(p.String()+": it cannot be described", e)
		return
	}
	g.ok(p.String() + ": not described, since kms:DescribeKey is not allowed, which the program does not need")
}

func unfit(info awskms.KeyInfo) (cause.Code, bool) {
	switch {
	case info.Spec != "SYMMETRIC_DEFAULT" || info.Usage != "ENCRYPT_DECRYPT":
		return cause.KeyUsage, true
	case info.State == "PendingDeletion" || info.State == "PendingReplicaDeletion" || !info.Deletion.IsZero():
		return cause.KeyPendingDeletion, true
	case info.State == "PendingImport":
		return cause.KeyPendingImport, true
	case info.State == "Disabled":
		return cause.KeyDisabled, true
	}
	return 0, false
}

func (p *patient) rotation(ctx context.Context, g *Group, info awskms.KeyInfo) {
	if info.Origin != "" && info.Origin != "AWS_KMS" {
		g.ok(fmt.Sprintf("%s: rotated by hand, as keys of origin %s are", p, info.Origin))
		return
	}
	rotation, err := p.client.KeyRotation(ctx, string(info.ARN))
	switch {
	case err != nil:
		g.ok(p.String() + ": its rotation is not known, since kms:GetKeyRotationStatus is not answered, which the program does not need")
	case !rotation.Enabled:
		g.advise(RotationOff, p.String()+": automatic rotation is off", "", switchOn(info.ARN))
	default:
		next := ""
		if !rotation.Next.IsZero() {
			next = "next on " + rotation.Next.UTC().Format(time.DateOnly)
		}
		g.ok(fmt.Sprintf("%s: rotated every %s", p, join(fmt.Sprintf("%d days", rotation.Days), next)))
	}
}

// switchOn is the code's instruction with the key filled in.
func switchOn(arn keyref.ARN) string {
	region := arn.Region()
	if region == "" {
		return RotationOff.Info().Next
	}
	return strings.NewReplacer("KEY", string(arn), "REGION", region).Replace(RotationOff.Info().Next)
}
