package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// A volume is a directory as kubelet fills it from a ConfigMap.
type volume struct {
	t    testing.TB
	dir  string
	made int
}

// publish changes the volume's file as kubelet does: a new directory, and a link
// that is swapped.
//
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/volume/util/atomic_writer.go
func (v *volume) publish(text string) {
	v.t.Helper()
	const name = "config.yaml"
	must := func(err error) {
		v.t.Helper()
		if err != nil {
			v.t.Fatal(err)
		}
	}
	old, err := os.Readlink(filepath.Join(v.dir, "..data"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.t.Fatal(err)
	}
	v.made++
	data := fmt.Sprintf("..2026_11_25_%d", v.made)
	must(os.Mkdir(filepath.Join(v.dir, data), 0o755))
	must(os.WriteFile(filepath.Join(v.dir, data, name), []byte(text), 0o600))
	must(os.Symlink(data, filepath.Join(v.dir, "..data_tmp")))
	must(os.Rename(filepath.Join(v.dir, "..data_tmp"), filepath.Join(v.dir, "..data")))
	if old == "" {
		must(os.Symlink(filepath.Join("..data", name), filepath.Join(v.dir, name)))
		return
	}
	must(os.RemoveAll(filepath.Join(v.dir, old)))
}

// A change of the file, by each way in which files are changed. None is left to
// the slow look.
func TestChangeOfTheFileIsNoticed(t *testing.T) {
	write := func(t *testing.T, path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rename := func(t *testing.T, from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		path   string // below the test's directory, as --config has it
		first  func(t *testing.T, dir, text string)
		change func(t *testing.T, dir, text string)
	}{
		"written in place": {
			"c/config.yaml",
			func(t *testing.T, dir, text string) { t.Helper(); write(t, dir+"/c/config.yaml", text) },
			func(t *testing.T, dir, text string) { t.Helper(); write(t, dir+"/c/config.yaml", text) },
		},
		"renamed over": {
			"c/config.yaml",
			func(t *testing.T, dir, text string) { t.Helper(); write(t, dir+"/c/config.yaml", text) },
			func(t *testing.T, dir, text string) {
				t.Helper()
				write(t, dir+"/c/.swp", text)
				rename(t, dir+"/c/.swp", dir+"/c/config.yaml")
			},
		},
		"moved away and written": {
			"c/config.yaml",
			func(t *testing.T, dir, text string) { t.Helper(); write(t, dir+"/c/config.yaml", text) },
			func(t *testing.T, dir, text string) {
				t.Helper()
				rename(t, dir+"/c/config.yaml", dir+"/c/config.yaml~")
				time.Sleep(50 * time.Millisecond)
				write(t, dir+"/c/config.yaml", text)
			},
		},
		"directory that is made again": {
			"c/sub/config.yaml",
			func(t *testing.T, dir, text string) {
				t.Helper()
				if err := os.Mkdir(dir+"/c/sub", 0o755); err != nil {
					t.Fatal(err)
				}
				write(t, dir+"/c/sub/config.yaml", text)
			},
			func(t *testing.T, dir, text string) {
				t.Helper()
				if err := os.RemoveAll(dir + "/c"); err != nil {
					t.Fatal(err)
				}
				if err := os.MkdirAll(dir+"/c/sub", 0o755); err != nil {
					t.Fatal(err)
				}
				write(t, dir+"/c/sub/config.yaml", text)
			},
		},
		"directory exchanged": {
			"c/config.yaml",
			func(t *testing.T, dir, text string) { t.Helper(); write(t, dir+"/c/config.yaml", text) },
			func(t *testing.T, dir, text string) {
				t.Helper()
				if err := os.Mkdir(dir+"/next", 0o755); err != nil {
					t.Fatal(err)
				}
				write(t, dir+"/next/config.yaml", text)
				if err := unix.Renameat2(unix.AT_FDCWD, dir+"/next", unix.AT_FDCWD, dir+"/c", unix.RENAME_EXCHANGE); err != nil {
					t.Fatal(err)
				}
			},
		},
		"link changed": {
			"link",
			func(t *testing.T, dir, text string) {
				t.Helper()
				write(t, dir+"/c/a", text)
				if err := os.Symlink("c/a", dir+"/link"); err != nil {
					t.Fatal(err)
				}
			},
			func(t *testing.T, dir, text string) {
				t.Helper()
				write(t, dir+"/c/b", text)
				if err := os.Symlink(dir+"/c/b", dir+"/link2"); err != nil {
					t.Fatal(err)
				}
				rename(t, dir+"/link2", dir+"/link")
			},
		},
		"behind a link": {
			"link",
			func(t *testing.T, dir, text string) {
				t.Helper()
				write(t, dir+"/c/a", text)
				if err := os.Symlink("../"+filepath.Base(dir)+"/c/a", dir+"/link"); err != nil {
					t.Fatal(err)
				}
			},
			func(t *testing.T, dir, text string) { t.Helper(); write(t, dir+"/c/a", text) },
		},
		"directory is a link": {
			"link/config.yaml",
			func(t *testing.T, dir, text string) {
				t.Helper()
				write(t, dir+"/c/config.yaml", text)
				if err := os.Symlink("c", dir+"/link"); err != nil {
					t.Fatal(err)
				}
			},
			func(t *testing.T, dir, text string) {
				t.Helper()
				if err := os.Mkdir(dir+"/d", 0o755); err != nil {
					t.Fatal(err)
				}
				write(t, dir+"/d/config.yaml", text)
				if err := os.Symlink("d", dir+"/link2"); err != nil {
					t.Fatal(err)
				}
				rename(t, dir+"/link2", dir+"/link")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kms := kmstest.Start(t)
			dir := testkit.Directory(t)
			if err := os.Mkdir(dir+"/c", 0o755); err != nil {
				t.Fatal(err)
			}
			p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
			c.first(t, dir, fileText("", p))
			timing := shortTiming()
			timing.poll, timing.missing = 10*testkit.Patience, testkit.Patience // nothing but events
			f := runFiled(t, filing{dir: dir, file: dir + "/" + c.path, time: timing}, "")
			f.ready()
			p.epoch = 1
			c.change(t, dir, fileText("", p))
			f.loaded(fileText("", p))
			if id := newCaller(t, p.listen).keyID(); !strings.HasSuffix(id, "epoch=1") {
				t.Errorf("key_id %s, want epoch 1", id)
			}
			if f.log.Has("not reloaded") {
				t.Errorf("the change is told as a failure:\n%s", f.log)
			}
		})
	}
}

func TestConfigMapThatIsPublishedAnew(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	v := &volume{t: t, dir: filepath.Join(dir, "volume")}
	if err := os.Mkdir(v.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	v.publish(fileText("", p))
	timing := shortTiming()
	timing.poll = 10 * testkit.Patience
	f := runFiled(t, filing{dir: dir, file: filepath.Join(v.dir, "config.yaml"), time: timing}, "")
	f.ready()
	for i := range 20 {
		p.epoch = i + 1
		v.publish(fileText("", p))
		f.loaded(fileText("", p))
	}
	v.publish(fileText("", p)) // kubelet also publishes what has not changed
	p.epoch++
	v.publish(fileText("", p))
	f.loaded(fileText("", p))
	testkit.Until(t, "the last is told", func() bool { return strings.Count(f.log.String(), "configuration reloaded") >= 21 })
	if n := strings.Count(f.log.String(), "configuration reloaded"); n != 21 || f.log.Has("not reloaded") {
		t.Errorf("reloaded %d times, want once for each of 21 changes, and no failure:\n%s", n, f.log)
	}
}
