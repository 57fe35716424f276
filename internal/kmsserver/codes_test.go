package kmsserver

import (
	"flag"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/generatedtest"
)

var update = flag.Bool("update", false, "write docs/errors.md")

func TestErrorsPageIsCurrent(t *testing.T) {
	t.Parallel()
	page := cause.Page(func(c cause.Class) string { return codeOfClass(c).String() }, config.CalledEither)
	generatedtest.Current(t, "../../docs/errors.md", page, *update)
}
