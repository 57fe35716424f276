package kmsemulator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// BenchmarkEncrypt calls with requests signed once, so that the time is the
// emulator's and net/http's on both sides.
func BenchmarkEncrypt(b *testing.B) {
	s := kmstest.Start(b)
	arn := mustCreate(b, s, kmsemulator.KeyOptions{})
	benchmark(b, s, "Encrypt", map[string]any{"KeyId": arn, "Plaintext": bytes.Repeat([]byte{1}, 32)})
}

func BenchmarkDecrypt(b *testing.B) {
	s := kmstest.Start(b)
	arn := mustCreate(b, s, kmsemulator.KeyOptions{})
	out, err := sdkClient(b, s, kmstest.Region).Encrypt(context.Background(), &kms.EncryptInput{KeyId: &arn, Plaintext: bytes.Repeat([]byte{1}, 32)})
	if err != nil {
		b.Fatal(err)
	}
	benchmark(b, s, "Decrypt", map[string]any{"KeyId": arn, "CiphertextBlob": out.CiphertextBlob})
}

func benchmark(b *testing.B, s *kmstest.Server, operation string, body map[string]any) {
	b.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	b.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	text, err := json.Marshal(body)
	if err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(8)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req := newRequest(b, s, operation, text)
			sign(b, req, text, s.Credential, signing{})
			resp, err := client.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			answer, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK {
				b.Errorf("%s: %s %v", resp.Status, answer, err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

// BenchmarkSDKEncrypt is the whole of it as a client of the Go SDK has it.
func BenchmarkSDKEncrypt(b *testing.B) {
	s := kmstest.Start(b)
	arn := mustCreate(b, s, kmsemulator.KeyOptions{})
	client := sdkClient(b, s, kmstest.Region)
	plain := bytes.Repeat([]byte{1}, 32)
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := client.Encrypt(context.Background(), &kms.EncryptInput{KeyId: &arn, Plaintext: plain}); err != nil {
				b.Error(fmt.Errorf("encrypting: %w", err))
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}
