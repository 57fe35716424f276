package daemon

import (
	"context"
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

// A watch tells when a file may have changed, by whatever its path leads through:
// editors and kubelet's ConfigMaps rename files and swap links, so that nothing
// happens to the file itself. It belongs to one goroutine at a time: follow may run
// in another, which keeps the watch where it hangs.
type watch struct {
	path    string
	time    timing
	files   files
	log     *slog.Logger
	watcher *fsnotify.Watcher // nil while inotify is not to be had
	places  places
	dirs    map[string]fileID // watched → as which directory
	told    *atomic.Bool      // that it is not; for all watches of the path
	left    atomic.Bool       // by one of the two goroutines
}

func newWatch(path string, t timing, f files, log *slog.Logger) *watch {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return &watch{path: path, time: t, files: f, log: log, dirs: map[string]fileID{}, told: new(atomic.Bool)}
}

// another returns a watch of the same path that has not begun.
func (w *watch) another() *watch {
	return &watch{path: w.path, time: w.time, files: w.files, log: w.log, dirs: map[string]fileID{}, told: w.told}
}

// leave is for each of the two goroutines when it has no more use for the watch:
// the second closes it.
func (w *watch) leave() {
	if w.left.Swap(true) {
		w.close()
	}
}

// takeBack undoes the other goroutine's leave.
func (w *watch) takeBack() { w.left.Store(false) }

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

// follow watches what the path leads through now. Events of before are not lost:
// whoever calls it reads the file afterwards.
func (w *watch) follow() {
	if w.watcher == nil && !w.open() {
		return
	}
	for range 3 { // it may change while it is looked at
		p := placesOf(w.path)
		w.places = p
		changed := false
		for dir, id := range w.dirs {
			if now, err := identify(dir); !p.dirs[dir] || err != nil || now != id {
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

// open begins to watch, and says whether that is to be had.
func (w *watch) open() bool {
	watcher, err := w.files.notify()
	if err != nil {
		w.tell(err)
		return false
	}
	w.watcher = watcher
	return true
}

func (w *watch) add(dir string) bool {
	id, err := identify(dir)
	if err != nil {
		return false
	}
	if err := w.watcher.Add(dir); err != nil {
		w.tell(err)
		return false
	}
	w.dirs[dir] = id
	return true
}

// tell says once that only the slow look is left.
func (w *watch) tell(err error) {
	if !w.told.Swap(true) {
		w.log.Warn("the directory of the configuration cannot be watched: the file is looked at from time to time", "file", w.path, "every", w.time.poll.String(), "error", err.Error())
	}
}

// wait returns when the file may have changed and is quiet again, when it is
// asked to, when a look that hung has ended, after limit, or when ctx ends.
func (w *watch) wait(ctx context.Context, limit time.Duration, ask, ended <-chan struct{}) (asked bool) {
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
func (w *watch) settle(ctx context.Context) {
	most := time.NewTimer(w.time.settleMost)
	defer most.Stop()
	for {
		quiet := time.NewTimer(w.time.settle)
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

// concerns says whether an event may have changed what the path leads to.
func (w *watch) concerns(event fsnotify.Event) bool {
	_, watched := w.dirs[event.Name]
	if watched && event.Has(fsnotify.Remove|fsnotify.Rename) { // another of its name may have the same inode
		_ = w.watcher.Remove(event.Name)
		delete(w.dirs, event.Name)
	}
	return watched || w.places.names[event.Name]
}

// lost notes that events were lost, which changes nothing: the file is read all
// the same.
func (w *watch) lost(err error) {
	w.log.Debug("events of the configuration's directory were lost", "file", w.path, "error", err.Error())
}

func (w *watch) events() <-chan fsnotify.Event {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Events
}

func (w *watch) errors() <-chan error {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Errors
}

func (w *watch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
	}
}
