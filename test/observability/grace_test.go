package observability_test

import (
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"
)

// declared is how long after the last success an outage is seen as one at the latest:
// a check every 30 s, then failures for 20 s, each with its time limit.
const declared = 60 * time.Second

// An outageSeries is an instance whose outage becomes visible at a sample.
type outageSeries struct {
	step  time.Duration // between two scrapes
	class string
	grace time.Duration
	lasts int           // samples; 0: to the end
	raise time.Duration // to which the grace is raised ten samples after its end; 0: never
}

const before = 8 // samples without a fault

// visible is when the first scrape of the outage is.
func (o outageSeries) visible() time.Duration { return before * o.step }

// ends is when the grace ends, where the outage was declared just after a scrape.
func (o outageSeries) ends() time.Duration { return o.visible() - o.step - declared + o.grace }

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

// intervals are the rows of the page: time between two scrapes and two evaluations,
// and the least grace for it.
func intervals(t *testing.T) map[time.Duration]time.Duration {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[time.Duration]time.Duration{}
	for _, m := range regexp.MustCompile("(?m)^\\| (\\d+) (s|m) \\|.*\\| `(\\d+m)` \\|$").FindAllStringSubmatch(string(text), -1) {
		step, err := time.ParseDuration(m[1] + m[2])
		if err != nil {
			t.Fatal(err)
		}
		if rows[step], err = time.ParseDuration(m[3]); err != nil {
			t.Fatal(err)
		}
	}
	if len(rows) != 3 || rows[15*time.Second] != 3*time.Minute {
		t.Fatalf("the page has the intervals %v, want three, and the default grace for 15s", rows)
	}
	return rows
}

// TestOutageAlertsAMinuteBeforeTheGraceEnds holds for the worst case: an outage that is
// declared late and just after a scrape, and rules that are evaluated just before one.
func TestOutageAlertsAMinuteBeforeTheGraceEnds(t *testing.T) {
	t.Parallel()
	for step, grace := range intervals(t) {
		for class, alert := range map[string]string{"outage": unreachable, "credentials": "EncryptionProviderCredentials"} {
			t.Run(fmt.Sprint(step, " ", class), func(t *testing.T) {
				t.Parallel()
				o := outageSeries{step: step, class: class, grace: grace}
				o.ask(t, firesAt(alert, o.floor(o.ends()-time.Minute-step)), silentAt(over, o.floor(o.ends()-time.Second)),
					firesAt(over, o.floor(o.ends())+step))
			})
		}
	}
}

func TestOutageAlertComesAtOnceWhereTheGraceIsShort(t *testing.T) {
	t.Parallel()
	for _, grace := range []time.Duration{0, time.Second, time.Minute, 119 * time.Second} {
		t.Run(grace.String(), func(t *testing.T) {
			t.Parallel()
			o := outageSeries{step: 15 * time.Second, class: "outage", grace: grace}
			o.ask(t, silentAt(unreachable, o.visible()-o.step), firesAt(unreachable, o.visible()))
		})
	}
}

func TestOutageOfALongGraceAlertsAfterTwoMinutes(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{15 * time.Second, 30 * time.Second, time.Minute} {
		t.Run(step.String(), func(t *testing.T) {
			t.Parallel()
			o := outageSeries{step: step, class: "outage", grace: 30 * time.Minute}
			o.ask(t, silentAt(unreachable, o.visible()), firesAt(unreachable, o.visible()+2*time.Minute), silentAt(over, o.visible()+10*time.Minute))
		})
	}
}

func TestShortOutageUnderALongGraceAlertsNobody(t *testing.T) {
	t.Parallel()
	o := outageSeries{step: 15 * time.Second, class: "outage", grace: 10 * time.Minute, lasts: 4}
	o.ask(t, query{expr: `count_over_time(ALERTS[1h])`})
}

// TestLongerGraceEndsItsAlert: that of the outage goes on.
func TestLongerGraceEndsItsAlert(t *testing.T) {
	t.Parallel()
	o := outageSeries{step: 15 * time.Second, class: "outage", grace: 3 * time.Minute, raise: 30 * time.Minute}
	raised := o.floor(o.ends()) + 12*o.step
	o.ask(t, firesAt(over, o.floor(o.ends())+2*o.step), silentAt(over, raised), firesAt(unreachable, raised),
		firesAt(over, o.floor(o.ends()-o.grace+o.raise)+o.step))
}
