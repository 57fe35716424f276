package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// A file is an entry of a tar or a zip. A directory's name ends with a slash.
type file struct {
	name     string
	mode     int64
	uid, gid int
	data     []byte
	link     string // what it is a symbolic link to; "": it is none
}

// byName returns the files sorted.
func byName(files []file) []file {
	return slices.SortedFunc(slices.Values(files), func(a, b file) int { return strings.Compare(a.name, b.name) })
}

// writeTar writes the files sorted by name, all of one time.
func writeTar(w io.Writer, at time.Time, files []file) error {
	out := tar.NewWriter(w)
	for _, f := range byName(files) {
		h := &tar.Header{
			Format: tar.FormatUSTAR, Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Uid: f.uid, Gid: f.gid,
			Size: int64(len(f.data)), ModTime: at.Truncate(time.Second),
		}
		switch {
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag = tar.TypeDir
		case f.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := out.Write(f.data); err != nil {
			return err
		}
	}
	return out.Close()
}

// tarGzip is writeTar, compressed; gzip's header has neither name nor time.
func tarGzip(at time.Time, files []file) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := writeTar(z, at, files); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// zipped is a zip of the files sorted by name, all of one time.
func zipped(at time.Time, files []file) ([]byte, error) {
	var b bytes.Buffer
	out := zip.NewWriter(&b)
	for _, f := range byName(files) {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: at.UTC().Truncate(time.Second)}
		mode := fs.FileMode(f.mode)
		if strings.HasSuffix(f.name, "/") {
			mode, h.Method = mode|fs.ModeDir, zip.Store
		}
		h.SetMode(mode)
		w, err := out.CreateHeader(h)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
