package kmsserver

import (
	"context"
	"log/slog"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

type uidKey struct{}

// maxUID bounds what a caller can make this program write.
const maxUID = 64

func withUID(ctx context.Context, uid string) context.Context {
	return context.WithValue(ctx, uidKey{}, shown(uid))
}

// shown is a uid as it may stand in a log: an API server's is a UUID, and what does
// not look like an identifier is quoted.
func shown(uid string) string {
	if len(uid) > maxUID {
		uid = strings.ToValidUTF8(uid[:maxUID], "") + "..."
	}
	for _, r := range uid {
		if r <= ' ' || r > '~' || r == '"' {
			return cause.Quote(uid)
		}
	}
	return strings.Clone(uid)
}

// NamingCalls returns a handler that adds the uid of the API server's call to
// every line that is written for it, in whatever room: the two logs can then be
// read side by side. Lines must be written with the call's context.
func NamingCalls(inner slog.Handler) slog.Handler { return uidHandler{inner} }

type uidHandler struct{ slog.Handler }

// Handle implements [slog.Handler].
func (h uidHandler) Handle(ctx context.Context, r slog.Record) error {
	if uid, ok := ctx.Value(uidKey{}).(string); ok {
		r.AddAttrs(slog.String("uid", uid))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (h uidHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return uidHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements [slog.Handler].
func (h uidHandler) WithGroup(name string) slog.Handler {
	return uidHandler{h.Handler.WithGroup(name)}
}
