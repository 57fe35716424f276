package kmsemulator

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// KeyOptions describe a key for [Emulator.CreateKey].
type KeyOptions struct {
	MultiRegion bool
	Description string
	// KeyID fixes the id, which is otherwise random: a UUID in small letters, or
	// "mrk-" and 32 hexadecimal digits for a multi-Region key.
	KeyID string
	// Spec is KMS's name of another kind of key that encrypts, such as RSA_2048;
	// "" is a symmetric one.
	Spec string
}

// CreateKey makes a key and returns its ARN. Like the other methods
// below it does without HTTP, credentials, faults and permissions, keeps KMS's
// rules, and answers with errors that carry KMS's words. An id that exists
// already in any Region is an error.
func (e *Emulator) CreateKey(region string, o KeyOptions) (arn string, err error) {
	if !isRegion(region) {
		return "", fmt.Errorf("kmsemulator: %q is no AWS Region", region)
	}
	if o.KeyID != "" && (!isKeyID(o.KeyID) || strings.HasPrefix(o.KeyID, "mrk-") != o.MultiRegion) {
		return "", fmt.Errorf("kmsemulator: %q is no id for a key with MultiRegion %t", o.KeyID, o.MultiRegion)
	}
	k, err := e.create(newKey{
		region: region, id: o.KeyID, spec: or(o.Spec, symmetric), usage: encryptDecrypt, origin: "AWS_KMS",
		multiRegion: o.MultiRegion, description: o.Description,
	}, e.clock())
	if err != nil {
		return "", err
	}
	return k.arn, nil
}

// ReplicateKey puts a replica of a multi-Region primary key into another Region
// and returns its ARN.
func (e *Emulator) ReplicateKey(arn, region string) (replica string, err error) {
	ref, err := e.refOf(arn)
	if err != nil {
		return "", err
	}
	k := &key{created: e.clock()}
	err = e.editKey(arn, func(w *world, ref keyRef) error { return w.replicate(e, ref, region, k, e.clock()) })
	if err != nil {
		return "", err
	}
	return e.arn("kms", region, "key/"+ref.id), nil
}

// HasKey tells whether there is a key of this ARN, in whatever state.
func (e *Emulator) HasKey(arn string) bool {
	ref, err := e.refOf(arn)
	if err != nil {
		return false
	}
	w, err := e.store.now(e.clock())
	return err == nil && w.keys[ref] != nil
}

// CreateAlias gives a key of the Region a name, such as "alias/secrets".
func (e *Emulator) CreateAlias(region, alias, keyARN string) error {
	return e.editAlias(region, alias, keyARN, (*world).createAlias)
}

// UpdateAlias moves an alias to another key.
func (e *Emulator) UpdateAlias(region, alias, keyARN string) error {
	return e.editAlias(region, alias, keyARN, (*world).updateAlias)
}

func (e *Emulator) editAlias(region, name, keyARN string, edit editAlias) error {
	ref, err := e.refOf(keyARN)
	if err != nil {
		return err
	}
	if ref.region != region {
		return fmt.Errorf("kmsemulator: %s is not a key of %s", keyARN, region)
	}
	if !aliasPattern().MatchString(name) {
		return fmt.Errorf("kmsemulator: %q is no name for an alias", name)
	}
	if err := checkAlias(name); err != nil {
		return err
	}
	now := e.clock()
	return e.store.change(now, func(w *world) error { return edit(w, e, aliasRef{region, name}, ref, now) })
}

// AliasTarget returns the ARN of the key that an alias names, and "" where there is
// no such alias.
func (e *Emulator) AliasTarget(region, alias string) (keyARN string) {
	w, err := e.store.now(e.clock())
	if err != nil {
		return ""
	}
	a := w.aliases[aliasRef{region, alias}]
	if a == nil {
		return ""
	}
	return e.arn("kms", region, "key/"+a.target)
}

// DisableKey disables a key.
func (e *Emulator) DisableKey(arn string) error {
	return e.editKey(arn, func(w *world, ref keyRef) error { return w.switchKey(ref, disabled) })
}

// EnableKey enables a key.
func (e *Emulator) EnableKey(arn string) error {
	return e.editKey(arn, func(w *world, ref keyRef) error { return w.switchKey(ref, enabled) })
}

// ScheduleKeyDeletion ends a key after 7 to 30 days of the emulator's clock.
func (e *Emulator) ScheduleKeyDeletion(arn string, days int) error {
	if days < 7 || days > 30 {
		return fmt.Errorf("kmsemulator: a key is deleted after 7 to 30 days, not %d", days)
	}
	return e.editKey(arn, func(w *world, ref keyRef) error {
		_, err := w.schedule(ref, int32(days), e.clock().AddDate(0, 0, days)) //nolint:gosec // 7 to 30
		return err
	})
}

// CancelKeyDeletion takes ScheduleKeyDeletion back and leaves the key disabled.
func (e *Emulator) CancelKeyDeletion(arn string) error {
	return e.editKey(arn, (*world).cancelDeletion)
}

// RotateKey gives a key new material, as RotateKeyOnDemand does.
func (e *Emulator) RotateKey(arn string) error {
	return e.editKey(arn, func(w *world, ref keyRef) error { return w.rotate(ref, e.clock()) })
}

// EnableKeyRotation has KMS rotate a key every so many days, 90 to 2560.
func (e *Emulator) EnableKeyRotation(arn string, days int) error {
	if days < leastPeriod || days > longestPeriod {
		return fmt.Errorf("kmsemulator: a key is rotated every %d to %d days, not %d", leastPeriod, longestPeriod, days)
	}
	period := int32(days)
	return e.editKey(arn, func(w *world, ref keyRef) error { return w.enableRotation(ref, &period, e.clock()) })
}

// SetKeyState puts a key into any of KMS's key states, also into those that
// the emulator never reaches by itself: Unavailable and Updating.
func (e *Emulator) SetKeyState(arn, state string) error {
	switch state {
	case creating, enabled, disabled, pendingImport, unavailable, updating:
	case pendingDeletion, pendingReplicaDeletion:
		return errors.New("kmsemulator: use ScheduleKeyDeletion")
	default:
		return fmt.Errorf("kmsemulator: %q is no key state", state)
	}
	return e.editKey(arn, func(w *world, ref keyRef) error {
		l := w.lines[ref.id]
		if l.current() == nil && l.spec == symmetric && state != pendingImport {
			return fmt.Errorf("kmsemulator: %s has no key material", arn)
		}
		k := w.editKey(ref)
		k.state = state
		if state == creating { // until another state is set
			k.ready = e.clock().AddDate(100, 0, 0)
		}
		return nil
	})
}

// CurrentMaterial returns the id of the material that a key encrypts with now,
// as DescribeKey shows it, and "" for a key without.
func (e *Emulator) CurrentMaterial(arn string) string {
	ref, err := e.refOf(arn)
	if err != nil {
		return ""
	}
	w, err := e.store.now(e.clock())
	if err != nil || w.keys[ref] == nil || w.lines[ref.id].current() == nil {
		return ""
	}
	return w.lines[ref.id].current().id
}

// editAlias is createAlias or updateAlias.
type editAlias = func(*world, *Emulator, aliasRef, keyRef, time.Time) error

func (e *Emulator) editKey(arn string, edit func(*world, keyRef) error) error {
	ref, err := e.refOf(arn)
	if err != nil {
		return err
	}
	return e.store.change(e.clock(), func(w *world) error {
		if w.keys[ref] == nil {
			return notFound("Key '%s' does not exist", arn)
		}
		return edit(w, ref)
	})
}

// refOf reads a key ARN of this emulator's account.
func (e *Emulator) refOf(arn string) (keyRef, error) {
	p := strings.SplitN(arn, ":", 6)
	if len(p) == 6 {
		if id, ok := strings.CutPrefix(p[5], "key/"); ok && arn == e.arn("kms", p[3], "key/"+id) {
			return keyRef{p[3], id}, nil
		}
	}
	return keyRef{}, fmt.Errorf("kmsemulator: %q is not the ARN of a key here", arn)
}
