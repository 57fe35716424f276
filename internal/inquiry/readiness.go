package inquiry

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"unicode"
)

// mostReadiness is how much of an answer is read: whatever listens there may be
// none of ours.
const mostReadiness = 1 << 20

// askReadiness asks the health port how each key is doing: KMS v2's Status knows
// the write key alone. Every provider of the process is told there.
func (r *Report) askReadiness(ctx context.Context, q Question) {
	ctx, cancel := context.WithTimeout(ctx, q.Timeout)
	defer cancel()
	lines, err := readiness(ctx, q.Health)
	if err != nil {
		r.found(HealthSilent, "health port: "+err.Error(), err.Error(), "")
		return
	}
	r.Readyz = lines
	for _, line := range lines {
		if key, ok := strings.CutPrefix(line, "  decrypt key "); ok {
			r.readKey("decrypt key " + key)
		}
	}
}

// readKey adds what the program tells of a key that only reads.
func (r *Report) readKey(line string) {
	if _, coded := findingIn(line); !coded && strings.Contains(line, "; KMS deletes it") {
		r.found(ReadKeyToGo, line, line, "")
		return
	}
	r.told(line, line)
}

// readiness returns the lines of /readyz?verbose. That a provider is not ready is
// one of them, and no error.
func readiness(ctx context.Context, address string) ([]string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if host == "" { // every address of the node
		host = "localhost"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz?verbose", http.NoBody)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy: it is this node
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, mostReadiness))
	if err != nil {
		return nil, err
	}
	text := strings.TrimRight(string(body), "\n")
	if !strings.HasPrefix(text, "provider ") {
		return nil, fmt.Errorf("%s answers %s, and no provider's readiness", address, resp.Status)
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines { // for a terminal, whoever answered
		lines[i] = strings.Map(printable, line)
	}
	return lines, nil
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return unicode.ReplacementChar
}
