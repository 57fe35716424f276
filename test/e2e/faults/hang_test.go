package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

const (
	// hangEnv makes hangs longer than usualHang: "10m" is what a release is tried with.
	hangEnv   = "FAULTS_HANG"
	usualHang = 60 * time.Second
	// back is how soon the plugin serves once what hung is well.
	back = 10 * time.Second
	// issuedLife is how long credentials of the test's own live: several ends of them
	// fall into a hang.
	issuedLife = 30 * time.Second
)

// alwaysOK is longer than any hang: what there is to sign with goes on.
const alwaysOK = 24 * time.Hour

// A place is where something hangs.
type place struct {
	become func(manner)
	held   func() int64 // connections that the plugin keeps waiting on
	// Status is ok no longer than this after the hang began: the last success may come
	// later than that, since credentials that are valid go on.
	silentFor time.Duration
}

// places prepare a machine, each for a hang of its own.
func places() map[string]func(t *testing.T, m *machine) place {
	of := func(f *front, d time.Duration) place { return place{f.become, f.held.Load, d} }
	const slack = 15 * time.Second // an idle process checks twice a minute
	return map[string]func(t *testing.T, m *machine) place{
		"KMS": func(t *testing.T, m *machine) place {
			f := newFront(t, passedOn(t, m.kms))
			m.at = f.URL
			return of(f, 60*time.Second+slack)
		},
		"STS": func(t *testing.T, m *machine) place {
			f := newFront(t, newIssuer(m.kms, issuedLife).sts())
			m.args = append(m.args, "--assume-role-arn=arn:aws:iam::111122223333:role/role")
			m.env = append(m.env, "AWS_ENDPOINT_URL_STS="+f.URL)
			return of(f, issuedLife+60*time.Second+slack)
		},
		"IMDS": func(t *testing.T, m *machine) place {
			f := newFront(t, newIssuer(m.kms, issuedLife).imds())
			m.env = append(without(), "AWS_EC2_METADATA_DISABLED=false", "AWS_EC2_METADATA_SERVICE_ENDPOINT="+f.URL)
			return of(f, alwaysOK) // the role's credentials go on past their end, as long as KMS takes them
		},
		"container endpoint": func(t *testing.T, m *machine) place {
			f := newFront(t, newIssuer(m.kms, issuedLife).container())
			m.env = append(without(), "AWS_CONTAINER_CREDENTIALS_FULL_URI="+f.URL+"/credentials")
			return of(f, issuedLife+60*time.Second+slack)
		},
	}
}

// without takes the usual credentials out of the environment.
func without() []string {
	return []string{"AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_SESSION_TOKEN="}
}

// TestWhatNeverAnswersHoldsUpNothing: whatever an endpoint does to keep its callers
// waiting, at the start and amid the work, the plugin serves within 10 s of its being
// well again, keeps no goroutine, descriptor or connection of it, says in Status what
// is wrong, and ends in time.
func TestWhatNeverAnswersHoldsUpNothing(t *testing.T) {
	t.Parallel()
	for name, prepare := range places() {
		for _, how := range []manner{switched, headers, body, silent} {
			for _, callers := range []int{0, 4} {
				t.Run(fmt.Sprintf("%s, %s, %d callers", name, how, callers), func(t *testing.T) {
					t.Parallel()
					m := newMachine(t, "--outage-grace=20s")
					hangs(t, m, prepare(t, m), how, callers)
				})
			}
		}
	}
}

// TestAFileThatBlocksHoldsUpNothing: the same for a shared credentials file in whose
// place there is a named pipe, which blocks whoever opens it as a hung file system does.
func TestAFileThatBlocksHoldsUpNothing(t *testing.T) {
	t.Parallel()
	for _, callers := range []int{0, 4} {
		t.Run(fmt.Sprintf("%d callers", callers), func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "--outage-grace=20s")
			path := filepath.Join(m.dir, "credentials")
			c := kmstest.Credential()
			m.env = append(without(), "AWS_SHARED_CREDENTIALS_FILE="+path)
			become := func(how manner) {
				next := path + ".next"
				if how != well {
					m.must(syscall.Mkfifo(next, 0o600))
				} else {
					m.must(os.WriteFile(next, fmt.Appendf(nil, "[default]\naws_access_key_id=%s\naws_secret_access_key=%s\n", c.AccessKeyID, c.SecretAccessKey), 0o600))
				}
				m.must(os.Rename(next, path))
			}
			// What was read goes on: Status may be ok all the time.
			hangs(t, m, place{become, func() int64 { return 0 }, alwaysOK}, silent, callers)
		})
	}
}

func hangs(t *testing.T, m *machine, p place, how manner, callers int) {
	t.Helper()
	hang := usualHang
	if text := os.Getenv(hangEnv); text != "" {
		d, err := time.ParseDuration(text)
		m.must(err)
		hang = d
	}
	p.become(how) // before the first contact
	m.launch()
	pause(t, hang/2)
	p.become(well)
	m.eventually(back, "it serves for the first time", m.serves)
	m.settle()
	before := m.holds(t.Context())

	stop := m.load(t, callers)
	p.become(how)
	begun, named := time.Now(), time.Duration(0)
	for time.Since(begun) < hang {
		pause(t, time.Second)
		st, err := m.status(t.Context(), 0)
		switch {
		case err != nil:
			t.Errorf("Status fails %v after the hang began, want ok and then a text: %v", time.Since(begun).Round(time.Second), err)
		case st.Healthz != "ok" && named == 0:
			named = time.Since(begun)
		}
		if since := time.Since(begun); since > p.silentFor && named == 0 {
			t.Fatalf("Status is still ok %v after the hang began", since.Round(time.Second))
		}
	}
	p.become(well)
	returned := time.Now()
	m.eventually(back, "it serves again", m.serves)
	t.Logf("Status named it after %v; served %v after the end of the hang", named.Round(time.Second), time.Since(returned).Round(10*time.Millisecond))
	stop()
	m.eventually(recovery, "all is well", m.well)
	m.eventually(time.Minute, "nothing is kept of the hang", func(ctx context.Context) error { return before.compare(m.holds(ctx), p.held()) })
	m.readsAll()

	p.become(how)
	pause(t, 8*time.Second) // for look-ups and checks to meet it
	signalled := time.Now()
	m.end()
	t.Logf("ended %v after SIGTERM", time.Since(signalled).Round(10*time.Millisecond))
}

// pause waits for a time, or for the test's end.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// serves is nil when an Encrypt is acknowledged.
func (m *machine) serves(ctx context.Context) error { return m.write(ctx, v2API) }

// load runs callers until stop: each encrypts and decrypts, and takes what comes.
func (m *machine) load(t *testing.T, callers int) (stop func()) {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	p := m.plugin
	var all sync.WaitGroup
	for range callers {
		all.Go(func() { // ends by leave
			for ctx.Err() == nil {
				s, err := p.encrypt(ctx, 0, v2API)
				if err == nil {
					err = p.decrypt(ctx, 0, s)
				}
				if errors.Is(err, errWrongPlaintext) {
					t.Error(err)
				}
				pause(t, 20*time.Millisecond)
			}
		})
	}
	return func() { leave(); all.Wait() }
}

// holdings are what a process has open.
type holdings struct{ goroutines, descriptors int }

func (m *machine) holds(ctx context.Context) holdings {
	m.t.Helper()
	_, text, err := m.get(ctx, "/metrics")
	m.must(err)
	value := func(name string) int {
		for line := range strings.Lines(text) {
			if rest, ok := strings.CutPrefix(line, name+" "); ok {
				n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
				m.must(err)
				return int(n)
			}
		}
		m.t.Fatalf("no metric %s", name)
		return 0
	}
	return holdings{value("go_goroutines"), value("process_open_fds")}
}

// compare is nil where no more is held than before, but for connections to KMS that
// callers have opened, of two goroutines each.
func (h holdings) compare(now holdings, held int64) error {
	const connections = 8
	if now.goroutines > h.goroutines+2*connections || now.descriptors > h.descriptors+connections || held > 0 {
		return fmt.Errorf("%+v, before %+v; %d connections that hung are still open", now, h, held)
	}
	return nil
}
