package identity

import (
	"testing"
)

// A sessions' name is another each time.
func TestAnotherSessionOfARoleIsTheSameCaller(t *testing.T) {
	t.Parallel()
	var c callers
	c.named(1, "arn:aws:sts::1:assumed-role/kms/1234")
	c.named(2, "arn:aws:sts::1:assumed-role/kms/5678")
	if c.before.name != "" {
		t.Errorf("got %+v", c)
	}
	c.named(3, "arn:aws:iam::1:user/a")
	c.named(2, "arn:aws:sts::1:assumed-role/kms/5678")
	if c.now.name != "arn:aws:iam::1:user/a" || c.before.name != "arn:aws:sts::1:assumed-role/kms" {
		t.Errorf("got %+v", c)
	}
}
