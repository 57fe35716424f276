// Package kmscontract is what every [kmskey.KMS] keeps to, as a suite of tests: the real
// client over an emulated KMS, and the fakes that stand in for it.
//
// Only tests import it.
package kmscontract

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// A Subject is a KMS with two keys that may encrypt and decrypt, by their ARNs.
type Subject struct {
	KMS           kmskey.KMS
	Key, OtherKey string
}

// Test runs the suite. fresh returns a subject of which nothing is known.
func Test(t *testing.T, fresh func(t *testing.T) Subject) {
	t.Helper()
	for name, promise := range map[string]func(t *testing.T, s Subject){
		"WhatIsEncryptedOpens":         opens,
		"AnswersNameTheKey":            namesTheKey,
		"AnotherKeyOpensNothing":       isPinned,
		"WithoutAKeyKMSChooses":        choosesByItself,
		"GarbageIsBadData":             refusesGarbage,
		"WhatItIsGivenIsLeftAlone":     leavesItsInput,
		"EndedContextIsTheCallers":     tellsTheCallersEnd,
		"CallsEndWithTheirTime":        endsInTime,
		"CallsAtOnceDoNotMix":          servesMany,
		"ErrorsHoldNoPlaintext":        keepsPlaintext,
		"EncryptingTwiceOpensTheSame":  encryptsTwice,
		"AnswersAreTheCallersToChange": givesAnswersAway,
	} {
		t.Run(name, func(t *testing.T) { promise(t, fresh(t)) })
	}
}

func encrypt(t *testing.T, s Subject, plaintext string) []byte {
	t.Helper()
	sealed, err := s.KMS.Encrypt(t.Context(), awskms.Call{}, s.Key, secret.Bytes(plaintext))
	if err != nil {
		t.Fatalf("Encrypt: %v", err)
	}
	return sealed.Blob
}

func opens(t *testing.T, s Subject) {
	t.Helper()
	for _, size := range []int{1, 32, 4096} {
		plaintext := bytes.Repeat([]byte("p"), size)
		opened, err := s.KMS.Decrypt(t.Context(), awskms.Call{}, s.Key, encrypt(t, s, string(plaintext)))
		if err != nil || !bytes.Equal(opened.Plaintext, plaintext) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func namesTheKey(t *testing.T, s Subject) {
	t.Helper()
	sealed, err := s.KMS.Encrypt(t.Context(), awskms.Call{}, s.Key, secret.Bytes("p"))
	if err != nil || string(sealed.KeyARN) != s.Key || sealed.RequestID == "" {
		t.Errorf("Encrypt names %q, request %q: %v", sealed.KeyARN, sealed.RequestID, err)
	}
	opened, err := s.KMS.Decrypt(t.Context(), awskms.Call{}, s.Key, sealed.Blob)
	if err != nil || string(opened.KeyARN) != s.Key || opened.RequestID == "" {
		t.Errorf("Decrypt names %q, request %q: %v", opened.KeyARN, opened.RequestID, err)
	}
}

func isPinned(t *testing.T, s Subject) {
	t.Helper()
	opened, err := s.KMS.Decrypt(t.Context(), awskms.Call{}, s.OtherKey, encrypt(t, s, "p"))
	if err == nil || cause.Of(err).Code != cause.NoKeyMadeIt || opened.Plaintext != nil {
		t.Errorf("%v, want %s", err, cause.NoKeyMadeIt)
	}
}

func choosesByItself(t *testing.T, s Subject) {
	t.Helper()
	opened, err := s.KMS.Decrypt(t.Context(), awskms.Call{}, "", encrypt(t, s, "p"))
	if err != nil || string(opened.Plaintext) != "p" || string(opened.KeyARN) != s.Key {
		t.Errorf("%q by %q: %v", opened.Plaintext, opened.KeyARN, err)
	}
}

func refusesGarbage(t *testing.T, s Subject) {
	t.Helper()
	for _, key := range []string{s.Key, ""} {
		if _, err := s.KMS.Decrypt(t.Context(), awskms.Call{}, key, []byte("garbage")); err == nil || cause.ClassOf(err) != cause.BadData {
			t.Errorf("by key %q: %v, want the class %s", key, err, cause.BadData)
		}
	}
}

func leavesItsInput(t *testing.T, s Subject) {
	t.Helper()
	plaintext := secret.Bytes("plaintext")
	sealed, err := s.KMS.Encrypt(t.Context(), awskms.Call{}, s.Key, plaintext)
	if err != nil || string(plaintext) != "plaintext" {
		t.Fatalf("Encrypt left %q: %v", []byte(plaintext), err)
	}
	plaintext.Clear() // it must not have kept it
	blob := bytes.Clone(sealed.Blob)
	opened, err := s.KMS.Decrypt(t.Context(), awskms.Call{}, s.Key, blob)
	if err != nil || string(opened.Plaintext) != "plaintext" || !bytes.Equal(blob, sealed.Blob) {
		t.Errorf("Decrypt gave %q, and left the blob alone: %t: %v", []byte(opened.Plaintext), bytes.Equal(blob, sealed.Blob), err)
	}
}

func tellsTheCallersEnd(t *testing.T, s Subject) {
	t.Helper()
	blob := encrypt(t, s, "p")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, encryptErr := s.KMS.Encrypt(ctx, awskms.Call{}, s.Key, secret.Bytes("p"))
	_, decryptErr := s.KMS.Decrypt(ctx, awskms.Call{}, s.Key, blob)
	for op, err := range map[string]error{"Encrypt": encryptErr, "Decrypt": decryptErr} {
		if err == nil || cause.ClassOf(err) != cause.Cancelled {
			t.Errorf("%s: %v, want the class %s", op, err, cause.Cancelled)
		}
	}
}

func endsInTime(t *testing.T, s Subject) {
	t.Helper()
	blob := encrypt(t, s, "p")
	over := awskms.Call{By: time.Now().Add(-time.Second)}
	if sealed, err := s.KMS.Encrypt(t.Context(), over, s.Key, secret.Bytes("p")); err == nil {
		t.Errorf("Encrypt gave %d bytes when its time was over", len(sealed.Blob))
	}
	if opened, err := s.KMS.Decrypt(t.Context(), over, s.Key, blob); err == nil {
		t.Errorf("Decrypt gave %d bytes when its time was over", len(opened.Plaintext))
	}
	within := awskms.Call{By: time.Now().Add(time.Hour), Share: 2}
	if _, err := s.KMS.Decrypt(t.Context(), within, s.Key, blob); err != nil {
		t.Errorf("Decrypt with time left: %v", err)
	}
}

func servesMany(t *testing.T, s Subject) {
	t.Helper()
	var calls sync.WaitGroup
	errs := make(chan error, 16)
	for i := range cap(errs) {
		calls.Go(func() {
			plaintext := fmt.Sprint("plaintext ", i)
			sealed, err := s.KMS.Encrypt(t.Context(), awskms.Call{}, s.Key, secret.Bytes(plaintext))
			if err != nil {
				errs <- err
				return
			}
			opened, err := s.KMS.Decrypt(t.Context(), awskms.Call{}, s.Key, sealed.Blob)
			if err == nil && string(opened.Plaintext) != plaintext {
				err = errors.New("another call's plaintext came out")
			}
			errs <- err
		})
	}
	calls.Wait()
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func keepsPlaintext(t *testing.T, s Subject) {
	t.Helper()
	const planted = "planted-plaintext"
	_, err := s.KMS.Decrypt(t.Context(), awskms.Call{}, s.OtherKey, encrypt(t, s, planted))
	if err == nil || bytes.Contains(fmt.Appendf(nil, "%v %+v %#v", err, err, cause.Of(err)), []byte(planted)) {
		t.Errorf("%v", err)
	}
}

func encryptsTwice(t *testing.T, s Subject) {
	t.Helper()
	for range 2 {
		opened, err := s.KMS.Decrypt(t.Context(), awskms.Call{}, s.Key, encrypt(t, s, "same"))
		if err != nil || string(opened.Plaintext) != "same" {
			t.Errorf("%q, %v", []byte(opened.Plaintext), err)
		}
	}
}

func givesAnswersAway(t *testing.T, s Subject) {
	t.Helper()
	blob := encrypt(t, s, "plaintext")
	first, err := s.KMS.Decrypt(t.Context(), awskms.Call{}, s.Key, blob)
	if err != nil {
		t.Fatal(err)
	}
	first.Plaintext.Clear()
	again, err := s.KMS.Decrypt(t.Context(), awskms.Call{}, s.Key, blob)
	if err != nil || string(again.Plaintext) != "plaintext" {
		t.Errorf("after the first answer was cleared: %q, %v", []byte(again.Plaintext), err)
	}
}
