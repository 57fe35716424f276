package observability_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// usual is the time until an outage is declared, with the default --kms-timeout.
const usual = 2500 * time.Millisecond

// declared is how long after the last success an outage is declared at the latest. A
// test of internal/keyring holds the page to it.
func declared(kmsTimeout time.Duration) time.Duration {
	check := 2 * kmsTimeout
	pause := max(6*time.Second, check)
	return 30*time.Second + check + max(20*time.Second+pause, 2*pause)
}

// An outageSeries is an instance whose outage becomes visible at a sample.
type outageSeries struct {
	step  time.Duration // between two scrapes
	late  time.Duration // after the last success, the outage is declared
	class string
	grace time.Duration
	lasts int           // samples; 0: to the end
	raise time.Duration // to which the grace is raised ten samples after its end; 0: never
}

const before = 8 // samples without a fault

// visible is when the first scrape of the outage is.
func (o outageSeries) visible() time.Duration { return before * o.step }

// ends is when the grace ends, where the outage was declared just after a scrape.
func (o outageSeries) ends() time.Duration { return o.lastSuccess() + o.grace }

func (o outageSeries) lastSuccess() time.Duration { return o.visible() - o.step - o.late }

func (o outageSeries) String() string {
	rest := 400
	health, end := fmt.Sprintf("0x%d 1x%d", before-1, rest), fmt.Sprintf("_x%d %d+0x%d", before, int(o.ends().Seconds()), rest)
	if o.lasts > 0 {
		health = fmt.Sprintf("0x%d 1x%d 0x%d", before-1, o.lasts-1, rest)
		end = fmt.Sprintf("_x%d %d+0x%d stale", before, int(o.ends().Seconds()), o.lasts-1)
	}
	if o.raise > 0 {
		until := int(o.ends()/o.step) + 10 - before
		end = fmt.Sprintf("_x%d %d+0x%d %d+0x%d", before, int(o.ends().Seconds()), until, int((o.ends() - o.grace + o.raise).Seconds()), rest)
	}
	labels := `provider="aws",` + target("", "a")
	return "      - series: 'aws_encryption_provider_health{state=\"" + o.class + "\"," + labels + "}'\n        values: '" + health + "'\n" +
		"      - series: 'aws_encryption_provider_outage_grace_end_timestamp_seconds{" + labels + "}'\n        values: '" + end + "'\n" +
		fmt.Sprintf("      - series: 'up{%s}'\n        values: '1x%d'\n", target("", "a"), rest)
}

// ask evaluates the rules as often as it scrapes.
func (o outageSeries) ask(t *testing.T, queries ...query) {
	t.Helper()
	promtoolEvery(t, o.step, o.String(), 400*o.step, queries...)
}

// floor is the last evaluation that is not after a time.
func (o outageSeries) floor(at time.Duration) time.Duration { return at.Truncate(o.step) }

const (
	unreachable = "EncryptionProviderKMSUnreachable"
	over        = "EncryptionProviderGraceOver"
)

// A row is one of the page's: times until the alert.
type row struct {
	kmsTimeout, step         time.Duration
	declared                 time.Duration
	grace                    time.Duration // the least
	fires, firesByTenMinutes time.Duration // after the last success, at most
}

// rowsOfThePage reads them as they are written.
func rowsOfThePage(t *testing.T) []row {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	duration := func(text string) time.Duration {
		d, err := time.ParseDuration(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	var rows []row
	for _, m := range regexp.MustCompile("(?m)^\\| `([0-9.]+s)` \\| (\\d+ [sm]) \\| (\\d+ s) \\| `(\\w+)` \\| (\\d+ s) \\| (\\d+ s) \\|$").FindAllStringSubmatch(string(text), -1) {
		rows = append(rows, row{duration(m[1]), duration(m[2]), duration(m[3]), duration(m[4]), duration(m[5]), duration(m[6])})
	}
	if len(rows) != 6 || rows[0].step != 15*time.Second || rows[0].grace != 3*time.Minute {
		t.Fatalf("the page has the rows %v, want six, and the default grace in the first", rows)
	}
	return rows
}

// limitsOfTheRule are read off the expression: how long before the end of the grace
// the alert fires, and after how long an outage.
func limitsOfTheRule(t *testing.T) (near, lasted time.Duration) {
	t.Helper()
	for _, a := range alerts(t) {
		m := regexp.MustCompile(`time\(\) > (\d+)\nor min_over_time\([^\[]*\[(\w+)\]\) == 1$`).FindStringSubmatch(a.Expr)
		if a.Alert != unreachable || m == nil {
			continue
		}
		seconds, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if lasted, err = time.ParseDuration(m[2]); err != nil {
			t.Fatal(err)
		}
		return time.Duration(seconds) * time.Second, lasted
	}
	t.Fatal("the rule has another form")
	return 0, 0
}

// TestTimesOfThePageFollowFromTheRule does the sum that the page describes.
func TestTimesOfThePageFollowFromTheRule(t *testing.T) {
	t.Parallel()
	near, lasted := limitsOfTheRule(t)
	const before, unit = time.Minute, 30 * time.Second // the alert comes; the grace is rounded up to
	for _, got := range rowsOfThePage(t) {
		want := row{kmsTimeout: got.kmsTimeout, step: got.step, declared: declared(got.kmsTimeout)}
		fires := func(grace time.Duration) time.Duration {
			return min(max(want.declared+want.step, grace-near), want.declared+lasted) + want.step
		}
		for want.grace = unit; fires(want.grace)+before > want.grace; {
			want.grace += unit
		}
		want.fires, want.firesByTenMinutes = fires(want.grace), fires(10*time.Minute)
		if got != want {
			t.Errorf("the page has %v, want %v", got, want)
		}
	}
}

// TestOutageAlertsAMinuteBeforeTheGraceEnds holds for the worst case: an outage that is
// declared late and just after a scrape.
func TestOutageAlertsAMinuteBeforeTheGraceEnds(t *testing.T) {
	t.Parallel()
	for _, r := range rowsOfThePage(t) {
		for class, alert := range map[string]string{"outage": unreachable, "credentials": "EncryptionProviderCredentials"} {
			t.Run(fmt.Sprint(r.kmsTimeout, " ", r.step, " ", class), func(t *testing.T) {
				t.Parallel()
				o := outageSeries{step: r.step, late: r.declared, class: class, grace: r.grace}
				o.ask(t, firesAt(alert, o.floor(o.ends()-time.Minute)), silentAt(over, o.floor(o.ends()-time.Second)),
					firesAt(over, o.floor(o.ends())+r.step))
			})
		}
	}
}

// TestOutageAlertsWhenThePageSaysSo: at the latest, and not more than two evaluations
// before: the bound is not an idle one.
func TestOutageAlertsWhenThePageSaysSo(t *testing.T) {
	t.Parallel()
	for _, r := range rowsOfThePage(t) {
		for grace, fires := range map[time.Duration]time.Duration{r.grace: r.fires, 10 * time.Minute: r.firesByTenMinutes} {
			t.Run(fmt.Sprint(r.kmsTimeout, " ", r.step, " ", grace), func(t *testing.T) {
				t.Parallel()
				o := outageSeries{step: r.step, late: r.declared, class: "outage", grace: grace}
				at := o.lastSuccess() + fires
				o.ask(t, firesAt(unreachable, o.floor(at)), silentAt(unreachable, o.floor(at-2*r.step-time.Second)))
			})
		}
	}
}

func TestOutageAlertComesAtOnceWhereTheGraceIsShort(t *testing.T) {
	t.Parallel()
	for _, grace := range []time.Duration{0, time.Second, time.Minute, 119 * time.Second} {
		t.Run(grace.String(), func(t *testing.T) {
			t.Parallel()
			o := outageSeries{step: 15 * time.Second, late: declared(usual), class: "outage", grace: grace}
			o.ask(t, silentAt(unreachable, o.visible()-o.step), firesAt(unreachable, o.visible()))
		})
	}
}

func TestOutageOfALongGraceAlertsAfterTwoMinutes(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{15 * time.Second, 30 * time.Second, time.Minute} {
		t.Run(step.String(), func(t *testing.T) {
			t.Parallel()
			o := outageSeries{step: step, late: declared(usual), class: "outage", grace: 30 * time.Minute}
			o.ask(t, silentAt(unreachable, o.visible()), firesAt(unreachable, o.visible()+2*time.Minute), silentAt(over, o.visible()+10*time.Minute))
		})
	}
}

func TestShortOutageUnderALongGraceAlertsNobody(t *testing.T) {
	t.Parallel()
	o := outageSeries{step: 15 * time.Second, late: declared(usual), class: "outage", grace: 10 * time.Minute, lasts: 4}
	o.ask(t, query{expr: `count_over_time(ALERTS[1h])`})
}

// TestLongerGraceEndsItsAlert: that of the outage goes on.
func TestLongerGraceEndsItsAlert(t *testing.T) {
	t.Parallel()
	o := outageSeries{step: 15 * time.Second, late: declared(usual), class: "outage", grace: 3 * time.Minute, raise: 30 * time.Minute}
	raised := o.floor(o.ends()) + 12*o.step
	o.ask(t, firesAt(over, o.floor(o.ends())+2*o.step), silentAt(over, raised), firesAt(unreachable, raised),
		firesAt(over, o.floor(o.ends()-o.grace+o.raise)+o.step))
}
