package config

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A read of a hung file system cannot be interrupted.
func TestAFileThatDoesNotAnswerIsNamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		_, err := readWithin(readTime, "/etc/hung.yaml", func(string) ([]byte, error) {
			<-release
			return nil, nil
		})
		const want = "reading /etc/hung.yaml did not end within 10s"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

func TestAFileThatAnswersLateIsRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		data, err := readWithin(readTime, "/etc/slow.yaml", func(string) ([]byte, error) {
			time.Sleep(9 * time.Second)
			return []byte("late"), nil
		})
		if err != nil || string(data) != "late" {
			t.Errorf("got %q, %v", data, err)
		}
	})
}
