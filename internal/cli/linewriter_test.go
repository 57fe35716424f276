package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

func TestLinesAreWrittenInOrderAndAllOfThem(t *testing.T) {
	var got, want bytes.Buffer
	w := newLineWriter(&got, func(n int64) { t.Errorf("%d lines were dropped", n) })
	line := []byte("line 000\n")
	for i := range lineQueue {
		copy(line, fmt.Sprintf("line %03d", i%1000)) // who writes uses its buffer again
		_, _ = w.Write(line)
		want.Write(line)
	}
	w.Close()
	if got.String() != want.String() {
		t.Errorf("%d bytes were written, want the %d of all lines in order", got.Len(), want.Len())
	}
}

func TestNobodyWaitsForAStalledReader(t *testing.T) {
	r, p, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	w := newLineWriter(p, func(n int64) { _, _ = fmt.Fprintf(p, "dropped %d\n", n) })
	line := []byte(strings.Repeat("x", 1023) + "\n")
	const lines = 10 * lineQueue
	began := time.Now()
	for range lines {
		_, _ = w.Write(line)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("%d lines took %s with nobody reading", lines, took)
	}
	began = time.Now()
	w.Close()
	if took := time.Since(began); took < lineFlush || took > 10*time.Second {
		t.Errorf("closing took %s with nobody reading, want %s", took, lineFlush)
	}
	whole, dropped := 0, 0
	read := make(chan error, 1)
	go func() {
		scanner := bufio.NewScanner(r)
		for scanner.Scan() {
			if _, err := fmt.Sscanf(scanner.Text(), "dropped %d", &dropped); err != nil {
				whole++
			}
		}
		read <- scanner.Err()
	}()
	<-w.ended // somebody reads at last
	_ = p.Close()
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if dropped == 0 || whole+dropped != lines {
		t.Errorf("%d lines came and %d are said to be dropped, want %d together", whole, dropped, lines)
	}
}

func TestDroppedLinesAreSaidInTheFormatOfTheLog(t *testing.T) {
	for name, c := range map[string]struct {
		json bool
		want string
	}{
		"json": {true, `"level":"WARN","msg":"log lines were dropped: standard error was not read","lines":`},
		"text": {false, `level=WARN msg="log lines were dropped: standard error was not read" lines=`},
	} {
		t.Run(name, func(t *testing.T) {
			r, p := io.Pipe()
			log, closeLog := newLogger(Streams{Err: p}, config.Log{JSON: c.json}, slog.LevelInfo)
			for i := range 2 * lineQueue {
				log.Info("line", "i", i)
			}
			go closeLog()
			defer func() { _ = r.Close() }() // ends the writer
			said := false
			for lines := bufio.NewScanner(r); !said && lines.Scan(); {
				said = strings.Contains(lines.Text(), c.want)
			}
			if !said {
				t.Errorf("not said: %s", c.want)
			}
		})
	}
}
