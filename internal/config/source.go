package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxMistakes is how many a person would read.
const maxMistakes = 50

// A Source is the file of --config and what the command line says besides it.
// It is never changed, and may be used by several goroutines at once.
type Source struct {
	path      string
	overrides []override
	warnings  []string
}

// An override is a setting of the file that the command line gives too.
type override struct {
	path  string // of the file's field
	field string // how it was given: --log-level, or its variable
	set   func(*document)
}

// Path returns the file's path, as it was given.
func (s *Source) Path() string { return s.path }

// Load makes a Config of the bytes of the file, as it is now or as it was. The
// error is [Mistakes], all of them.
func (s *Source) Load(data []byte) (*Config, error) {
	cfg, _, err := s.load(data)
	return cfg, err
}

// load returns with the Config the words of its file, which know where each value
// stands.
func (s *Source) load(data []byte) (*Config, *fileWords, error) {
	doc := newDocument()
	d := &decoder{file: s.path, lines: map[string]int{}, broken: map[string]bool{}}
	words := &fileWords{decoder: d, overridden: map[string]string{}}
	if !d.decode(data, doc) {
		return nil, words, s.told(d.mistakes)
	}
	for _, o := range s.overrides {
		o.set(doc)
		words.overridden[o.path] = o.field
	}
	b := &builder{words: words, mistakes: d.mistakes, told: map[Mistake]bool{}}
	cfg := b.build(doc)
	if len(b.mistakes) > 0 {
		return nil, words, s.told(b.mistakes)
	}
	cfg.File, cfg.Hash, cfg.Warnings = s.path, Hash(data), s.warnings
	words.debug = doc.Log.debug
	return cfg, words, nil
}

// Hash names what a file says: the first 16 hex digits of SHA-256.
func Hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// told is what a person is told: in the order of the lines, and no endless list
// of a file that is meant for something else.
func (s *Source) told(mistakes Mistakes) Mistakes {
	slices.SortStableFunc(mistakes, func(a, b Mistake) int { return a.Line - b.Line })
	if more := len(mistakes) - maxMistakes; more > 0 {
		return append(mistakes[:maxMistakes:maxMistakes], Mistake{File: s.path, Text: fmt.Sprintf("and %d more mistakes", more)})
	}
	return mistakes
}

// readTime is how long a command waits for a file.
const readTime = 10 * time.Second

// ReadInTime is [ReadFile] for who reads a file once: it fails where the file
// system that the file is on does not answer.
func ReadInTime(path string) ([]byte, error) {
	data, err := readWithin(readTime, path, ReadFile)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: %s", err, letIn())
	}
	return data, err
}

// letIn says what to do about a file that may not be read.
func letIn() string {
	if os.Geteuid() == 0 {
		return "let root read it: by its owner, its group or its mode, since root without CAP_DAC_OVERRIDE, as by the systemd unit, is as any user"
	}
	return "run this as root, or as the user that the file is for"
}

// readWithin needs no context, which bounded would: none of its callers can be told to
// end before the limit.
func readWithin(limit time.Duration, path string, read func(string) ([]byte, error)) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() { // ends when the file system answers
		data, err := read(path)
		done <- result{data, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.data, r.err
	case <-timer.C:
		return nil, fmt.Errorf("reading %s did not end within %s: the file system that it is on does not answer", path, limit)
	}
}

// ReadFile returns the bytes of a configuration file, and a little more than
// what is allowed of one that is too long. It returns when the file system answers.
func ReadFile(path string) ([]byte, error) {
	// Without O_NONBLOCK a named pipe would hold the caller up.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, &fileError{path, err}
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, &fileError{path, err}
	case info.IsDir():
		return nil, fmt.Errorf("%s is a directory: give the path of a file in it", path)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file, so it could not be read again", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, &fileError{path, err}
	}
	return data, nil
}

// A fileError is a file that could not be read, in words without the system call's.
type fileError struct {
	path string
	err  error
}

func (e *fileError) Error() string { return e.path + ": " + e.why() }
func (e *fileError) Unwrap() error { return e.err }

func (e *fileError) why() string {
	switch {
	case errors.Is(e.err, fs.ErrNotExist):
		return "there is no such file: check its path"
	case errors.Is(e.err, fs.ErrPermission):
		return fmt.Sprintf("user %d may not read it", os.Geteuid())
	case errors.Is(e.err, syscall.ENOTDIR):
		return "a part of its path is a file, not a directory"
	case errors.Is(e.err, syscall.ELOOP):
		return "its symbolic links lead in a circle"
	case errors.Is(e.err, syscall.ENAMETOOLONG):
		return "its path is too long"
	}
	if errno, ok := errors.AsType[syscall.Errno](e.err); ok {
		return "it cannot be read: " + errno.Error()
	}
	return "it cannot be read"
}

// fileWords names mistakes in the words of a file.
type fileWords struct {
	*decoder
	overridden map[string]string // path → flag or variable that wins
	debug      bool              // --debug wins over the level
}

func (w *fileWords) mistake(path, text string) (Mistake, bool) {
	if field, ok := w.overridden[path]; ok {
		return Mistake{Field: field, Text: text}, true
	}
	line := 0
	for p := path; ; p = parent(p) {
		if w.broken[p] { // what follows from a known mistake is no news
			return Mistake{}, false
		}
		if line == 0 {
			line = w.lines[p]
		}
		if p == "" {
			return Mistake{File: w.file, Line: line, Field: path, Text: text}, true
		}
	}
}

func (*fileWords) name(field string) string { return field[strings.LastIndexByte(field, '.')+1:] }

func (*fileWords) subject(_, value string) string { return quote(value) }

// parent cuts the last field or index off a path.
func parent(path string) string {
	if strings.HasSuffix(path, `"]`) { // a quoted name, which may hold anything
		return path[:strings.Index(path, `["`)]
	}
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}
