package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// What one does with a file that cannot be read.
const (
	adviceTruncated = "Fetch it again from where it was made, or take another snapshot: etcdctl snapshot save FILE"
	adviceForeign   = "Name a snapshot (etcdctl snapshot save FILE) or a copied member/snap/db"
	adviceUnpack    = "Unpack it first"
)

// A file is one that looks like a database of etcd.
type file struct {
	path   string
	size   int64 // of the database, the digest not included
	digest bool
}

func (f file) wrong(reason, next string, err error) error {
	return &store.Error{Place: f.path, Reason: reason, Next: next, Err: err}
}

// damaged is for what a whole file never has.
func (f file) damaged(how string) error {
	next := adviceTruncated
	if !f.digest {
		next = "A copy that was made while etcd ran is never whole. " + next
	}
	return f.wrong("it is damaged: "+how, next, nil)
}

// sector is what a database's size is a multiple of.
const sector = 512

// examine looks at the file's kind, size and first bytes.
func (r *Reader) examine() (file, error) {
	f := file{path: r.path}
	info, err := os.Stat(r.path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return file{}, f.wrong("permission denied", "Become root: etcd's files belong to it alone", err)
	case errors.Is(err, fs.ErrNotExist):
		return file{}, f.wrong("there is no such file", "", err)
	case err != nil:
		return file{}, f.wrong(err.Error(), "", err)
	case info.IsDir():
		return file{}, f.directory()
	case !info.Mode().IsRegular():
		return file{}, f.wrong("it is not a regular file", "Save the snapshot in a file first", nil)
	case info.Size() == 0:
		return file{}, f.wrong("the file is empty (0 bytes)", adviceTruncated, nil)
	}
	head, err := f.head()
	if err != nil {
		return file{}, err
	}
	if err := f.foreign(head); err != nil {
		return file{}, err
	}
	f.size = info.Size()
	switch f.size % sector {
	case 0:
	case sha256.Size:
		f.size, f.digest = f.size-sha256.Size, true
	default:
		return file{}, f.wrong(fmt.Sprintf("a snapshot never has %d bytes: it was cut off, or something is attached to it", f.size), adviceTruncated, nil)
	}
	return f, nil
}

// directory is for a directory: which file is meant?
func (f file) directory() error {
	for _, below := range []string{"member/snap/db", "snap/db", "db"} {
		if info, err := os.Stat(filepath.Join(f.path, below)); err == nil && info.Mode().IsRegular() {
			return f.wrong("it is a directory", "Name the database in it: "+filepath.Join(f.path, below), nil)
		}
	}
	for _, below := range []string{"*.wal", "wal/*.wal", "member/wal/*.wal"} {
		if found, err := filepath.Glob(filepath.Join(f.path, below)); err == nil && len(found) > 0 {
			return f.wrong("it is a directory with a write-ahead log (WAL) and no database: what is in the log alone cannot be read", adviceForeign, nil)
		}
	}
	return f.wrong("it is a directory", adviceForeign, nil)
}

// head returns the first bytes of the file, as many as there are of two pages.
func (f file) head() ([]byte, error) {
	opened, err := os.Open(f.path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, f.wrong("permission denied", "Become root: etcd's files belong to it alone", err)
	}
	if err != nil {
		return nil, f.wrong(err.Error(), "", err)
	}
	defer func() { _ = opened.Close() }()
	head := make([]byte, 2*largestPage)
	n, err := io.ReadFull(opened, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, f.wrong("it cannot be read: "+err.Error(), "", err)
	}
	return head[:n], nil
}

// largestPage is that of the machines that etcd runs on: arm64 may have 64 KiB.
const largestPage = 64 << 10

// foreign says what a file is that is no bbolt database.
func (f file) foreign(head []byte) error {
	switch hasMagic(head) {
	case magicFound:
		return nil
	case magicSwapped:
		return f.wrong("it was written by a machine of the other byte order", "Read it on a machine like that of etcd", nil)
	case magicMissing:
	}
	for _, known := range []struct {
		at    int
		begin string
		what  string
		next  string
	}{
		{8, "\x08\x04\x10", "it is a file of etcd's write-ahead log (WAL), which does not hold the keys", adviceForeign},
		{0, "\x1f\x8b", "it is compressed by gzip", adviceUnpack},
		{0, "\x28\xb5\x2f\xfd", "it is compressed by zstd", adviceUnpack},
		{0, "\xfd7zXZ", "it is compressed by xz", adviceUnpack},
		{0, "BZh", "it is compressed by bzip2", adviceUnpack},
		{0, "\x04\x22\x4d\x18", "it is compressed by lz4", adviceUnpack},
		{0, "PK\x03\x04", "it is a zip archive", adviceUnpack},
		{257, "ustar", "it is a tar archive", adviceUnpack},
	} {
		if len(head) > known.at && bytes.HasPrefix(head[known.at:], []byte(known.begin)) {
			return f.wrong(known.what, known.next, nil)
		}
	}
	if filepath.Ext(f.path) == ".snap" {
		return f.wrong("it is a snapshot of etcd's raft state, which does not hold the keys", adviceForeign, nil)
	}
	return f.wrong("it is not a database of etcd", adviceForeign, nil)
}

// What the first pages of a file say.
type magic int

const (
	magicMissing magic = iota
	magicFound
	magicSwapped
)

// hasMagic looks for the head of a bbolt database: of its two first pages, either may
// be damaged. go.etcd.io/bbolt/internal/common/meta.go.
func hasMagic(head []byte) magic {
	const number, header = 0xED0CDAED, 16
	offsets := []int{header}
	for page := 1 << 10; page <= largestPage; page *= 2 {
		offsets = append(offsets, page+header)
	}
	for _, at := range offsets {
		if len(head) < at+4 {
			continue
		}
		switch uint32(number) {
		case binary.NativeEndian.Uint32(head[at:]):
			return magicFound
		case swapped(head[at:]):
			return magicSwapped
		}
	}
	return magicMissing
}

// swapped reads a number as a machine of the other byte order wrote it.
func swapped(b []byte) uint32 {
	return binary.NativeEndian.Uint32([]byte{b[3], b[2], b[1], b[0]})
}

// checkDigest compares the file with the digest at its end.
func (w *walk) checkDigest(ctx context.Context) error {
	f, err := os.Open(w.file.path)
	if err != nil {
		return w.file.wrong("it cannot be opened: "+err.Error(), "", err)
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	for left := w.file.size; left > 0; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.CopyN(sum, f, min(left, reportEvery))
		if err != nil {
			return w.file.wrong("it cannot be read: "+err.Error(), adviceTruncated, err)
		}
		left -= n
		w.advance(n)
	}
	said := make([]byte, sha256.Size)
	if _, err := io.ReadFull(f, said); err != nil {
		return w.file.wrong("it cannot be read: "+err.Error(), adviceTruncated, err)
	}
	if !bytes.Equal(said, sum.Sum(nil)) {
		return w.file.wrong("its digest does not match: it is not the file that etcd made", adviceTruncated, nil)
	}
	return nil
}
