package inquiry

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode"
)

// Lines of /readyz?verbose.
var (
	keyLine     = regexp.MustCompile(`^  key (\S+) (writes|reads): `)
	fileLine    = regexp.MustCompile(`^configuration (.+): hash ([0-9a-f]+), loaded at `)
	refusedLine = regexp.MustCompile(`^configuration not reloaded since \S+, the running one goes on, [^:]+: (.+)$`)
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

// A Process is what one that runs tells of itself at its health port.
type Process struct {
	Providers []Served
	File      string // of --config; "" with flags
	Hash      string // of that file's bytes, as the configuration has it; "" with flags
	Refused   string // why the file as it is now was not taken over; "": it was
}

// A Served is a provider of a process. Keys are as they were configured, without
// their encryption contexts.
type Served struct {
	Socket string
	Writes string
	Reads  []string // also what an alias named before
}

// On returns the provider of a socket, nil where the process has none there.
func (p *Process) On(same func(socket string) bool) *Served {
	if p == nil {
		return nil
	}
	for i := range p.Providers {
		if same(p.Providers[i].Socket) {
			return &p.Providers[i]
		}
	}
	return nil
}

// AskProcess asks a health port what the process behind it runs with.
func AskProcess(ctx context.Context, address string, timeout time.Duration) (*Process, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	lines, err := readiness(ctx, address)
	if err != nil {
		return nil, err
	}
	p := &Process{}
	for _, line := range lines {
		p.read(line)
	}
	return p, nil
}

// read takes one line of /readyz?verbose. What it does not know it leaves.
func (p *Process) read(line string) {
	if strings.HasPrefix(line, "provider ") {
		p.Providers = append(p.Providers, Served{})
		return
	}
	last := &Served{}
	if n := len(p.Providers); n > 0 {
		last = &p.Providers[n-1]
	}
	key := keyLine.FindStringSubmatch(line)
	file := fileLine.FindStringSubmatch(line)
	refused := refusedLine.FindStringSubmatch(line)
	socket, isSocket := strings.CutPrefix(line, "  socket ")
	switch {
	case isSocket:
		last.Socket = socket
	case key != nil && key[2] == "writes":
		last.Writes = key[1]
	case key != nil:
		last.Reads = append(last.Reads, key[1])
	case file != nil:
		p.File, p.Hash = file[1], file[2]
	case refused != nil:
		p.Refused = shown(refused[1])
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
