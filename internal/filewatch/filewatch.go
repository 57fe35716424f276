// Package filewatch tells when a file may have changed, by whatever its path leads
// through: editors and the kubelet's ConfigMaps rename files and swap links, so that
// nothing happens to the file itself.
package filewatch

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

// maxLinks is how many symbolic links the kernel follows on one path.
const maxLinks = 40

// Options configure a [Watch].
type Options struct {
	Path   string
	Timing Timing
	Notify func() (*fsnotify.Watcher, error) // for tests that make it fail; nil: by inotify
	Log    *slog.Logger
}

// Timing is how long a watch waits for what.
type Timing struct {
	Settle     time.Duration // of quiet, after a change
	SettleMost time.Duration // where it does not get quiet
	Poll       time.Duration // between the looks of its user where no change is noticed; for the log
}

// A Watch tells when a file may have changed. It belongs to one goroutine at a time:
// Follow may run in another, which keeps the watch where it hangs.
type Watch struct {
	opts    Options
	watcher *fsnotify.Watcher // nil while inotify is not to be had
	places  places
	dirs    map[string]fs.FileInfo // watched → as which directory
	warned  *atomic.Bool           // that it is not to be had; for all watches of the path
	left    atomic.Bool            // by one of the two goroutines
}

// New returns a watch that has not begun: see [Watch.Follow].
func New(o Options) *Watch {
	if abs, err := filepath.Abs(o.Path); err == nil {
		o.Path = abs
	}
	if o.Notify == nil {
		o.Notify = fsnotify.NewWatcher
	}
	return &Watch{opts: o, dirs: map[string]fs.FileInfo{}, warned: new(atomic.Bool)}
}

// Another returns a watch of the same path that has not begun.
func (w *Watch) Another() *Watch {
	return &Watch{opts: w.opts, dirs: map[string]fs.FileInfo{}, warned: w.warned}
}

// Leave is for each of the two goroutines when it has no more use for the watch:
// the second closes it.
func (w *Watch) Leave() {
	if w.left.Swap(true) {
		w.Close()
	}
}

// TakeBack undoes the other goroutine's Leave.
func (w *Watch) TakeBack() { w.left.Store(false) }

// places are what a path leads through.
type places struct {
	dirs  map[string]bool
	names map[string]bool // full names of what would change the path's end
}

// placesOf follows a path as the kernel does: each symbolic link counts, and the
// file. Of what is not there, the nearest directory that is there counts.
func placesOf(path string) places {
	p := places{dirs: map[string]bool{}, names: map[string]bool{}}
	dir, rest := "/", path
	for links := 0; links <= maxLinks; {
		name, more, _ := strings.Cut(strings.TrimLeft(rest, "/"), "/")
		full := filepath.Join(dir, name)
		info, err := os.Lstat(full)
		switch {
		case name == "":
			return p
		case name == "..":
			dir = filepath.Dir(dir)
		case err == nil && info.IsDir():
			dir = full
		default:
			p.dirs[dir], p.names[full] = true, true
			target, err := os.Readlink(full)
			if err != nil { // the file, or what is not there
				return p
			}
			links++
			if filepath.IsAbs(target) {
				dir = "/"
			}
			more = target + "/" + more
		}
		rest = more
	}
	return p
}

// Follow watches what the path leads through now. Events of before are not lost:
// whoever calls it reads the file afterwards.
func (w *Watch) Follow() {
	if w.watcher == nil && !w.open() {
		return
	}
	for range 3 { // it may change while it is looked at
		p := placesOf(w.opts.Path)
		w.places = p
		changed := false
		for dir, id := range w.dirs {
			if now, err := os.Lstat(dir); !p.dirs[dir] || err != nil || !os.SameFile(now, id) {
				_ = w.watcher.Remove(dir) // is gone by itself where the directory is
				delete(w.dirs, dir)
				changed = true
			}
		}
		for dir := range p.dirs {
			if _, ok := w.dirs[dir]; !ok {
				changed = w.add(dir) || changed
			}
		}
		if !changed {
			return
		}
	}
}

// open begins to watch, and reports whether that is to be had.
func (w *Watch) open() bool {
	watcher, err := w.opts.Notify()
	if err != nil {
		w.warn(err)
		return false
	}
	w.watcher = watcher
	return true
}

func (w *Watch) add(dir string) bool {
	id, err := os.Lstat(dir)
	if err != nil {
		return false
	}
	if err := w.watcher.Add(dir); err != nil {
		w.warn(err)
		return false
	}
	w.dirs[dir] = id
	return true
}

// warn says once that only the slow look is left.
func (w *Watch) warn(err error) {
	if !w.warned.Swap(true) {
		w.opts.Log.Warn("the directory of the configuration cannot be watched: the file is looked at from time to time", "file", w.opts.Path, "every", w.opts.Timing.Poll.String(), "error", err.Error())
	}
}

// Wait returns when the file may have changed and is quiet again, when it is
// asked to, when a look that hung has ended, after limit, or when ctx ends.
func (w *Watch) Wait(ctx context.Context, limit time.Duration, ask, ended <-chan struct{}) (asked bool) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-ask:
			return true
		case <-timer.C:
			return false
		case <-ended:
			return false
		case event := <-w.events():
			if w.concerns(event) {
				w.settle(ctx)
				return false
			}
		case err := <-w.errors():
			w.lost(err)
			w.settle(ctx)
			return false
		}
	}
}

// settle waits until nothing has happened for a moment, though not for ever: an
// editor writes in steps.
func (w *Watch) settle(ctx context.Context) {
	most := time.NewTimer(w.opts.Timing.SettleMost)
	defer most.Stop()
	for {
		quiet := time.NewTimer(w.opts.Timing.Settle)
		select {
		case <-ctx.Done():
		case <-most.C:
		case <-quiet.C:
		case event := <-w.events():
			quiet.Stop()
			w.concerns(event)
			continue
		case err := <-w.errors():
			quiet.Stop()
			w.lost(err)
			continue
		}
		quiet.Stop()
		return
	}
}

// concerns reports whether an event may have changed what the path leads to.
func (w *Watch) concerns(event fsnotify.Event) bool {
	_, watched := w.dirs[event.Name]
	if watched && event.Has(fsnotify.Remove|fsnotify.Rename) { // another of its name may have the same inode
		_ = w.watcher.Remove(event.Name)
		delete(w.dirs, event.Name)
	}
	return watched || w.places.names[event.Name]
}

// lost notes that events were lost, which changes nothing: the file is read all
// the same.
func (w *Watch) lost(err error) {
	w.opts.Log.Debug("events of the configuration's directory were lost", "file", w.opts.Path, "error", err.Error())
}

func (w *Watch) events() <-chan fsnotify.Event {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Events
}

func (w *Watch) errors() <-chan error {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Errors
}

// Close ends the watch.
func (w *Watch) Close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
	}
}
