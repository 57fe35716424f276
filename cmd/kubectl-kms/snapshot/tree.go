package snapshot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A tree is the pages of a bbolt database, as the file has them. bbolt trusts them: it
// follows a page that leads to itself until memory ends, and reads outside of the file
// where an entry says so. Both are looked for before bbolt reads. A digest does not
// make that needless: etcd takes it of what it sends, damaged or not.
//
// The layout is that of go.etcd.io/bbolt/internal/common, in the machine's byte order:
//
//	page     id (8) flags (2) count (2) overflow (4), then count elements
//	branch   pos (4) ksize (4) page (8)
//	leaf     flags (4) pos (4) ksize (4) vsize (4)
//	bucket   page (8) sequence (8), then, where page is 0, a page in the value itself
//
// pos counts from the element's own first byte.
type tree struct {
	file     io.ReaderAt
	pageSize int64
	pages    int64    // pages from here on are not used
	met      []uint64 // a bit for each page that was met
}

// Sizes and flags of that layout.
const (
	pageHeader  = 16
	elementSize = 16
	metaSize    = 64

	flagBranch = 1
	flagLeaf   = 2
	flagBucket = 1 // of a leaf's element
)

// maxDepth is more than a tree of any file can have: each branch has two pages at
// least.
const maxDepth = 64

// checkTree follows all pages of the state of transaction txid.
func checkTree(ctx context.Context, file io.ReaderAt, pageSize int, txid int64) error {
	t := tree{file: file, pageSize: int64(pageSize)}
	for page := range int64(2) {
		meta := make([]byte, pageHeader+metaSize)
		if _, err := file.ReadAt(meta, page*t.pageSize); err != nil {
			return err
		}
		meta = meta[pageHeader:]
		if n := binary.NativeEndian.Uint64(meta[48:]); n != uint64(txid) { //nolint:gosec // compared only
			continue
		}
		t.pages = pageID(meta[40:])
		t.met = make([]uint64, t.pages/64+1)
		return t.page(ctx, pageID(meta[16:]), 0)
	}
	return errors.New("neither of its two heads is of the last transaction")
}

// pageID reads a page's number, cut to what a file of this size can have.
func pageID(b []byte) int64 {
	return int64(min(binary.NativeEndian.Uint64(b), 1<<40))
}

// page checks a page and all that it leads to.
func (t *tree) page(ctx context.Context, id int64, depth int) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case depth > maxDepth:
		return errors.New("its pages lead deeper than any file can")
	case id < 2 || id >= t.pages:
		return fmt.Errorf("it leads to page %d of %d", id, t.pages)
	case t.met[id/64]&(1<<(id%64)) != 0:
		return fmt.Errorf("it leads to page %d twice", id)
	}
	t.met[id/64] |= 1 << (id % 64)
	head := make([]byte, pageHeader)
	if _, err := t.file.ReadAt(head, id*t.pageSize); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	more := int64(binary.NativeEndian.Uint32(head[12:]))
	if own := pageID(head); own != id || id+more >= t.pages {
		return fmt.Errorf("page %d says that it is page %d, with %d more", id, own, more)
	}
	data := make([]byte, (more+1)*t.pageSize)
	if _, err := t.file.ReadAt(data, id*t.pageSize); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	if err := t.elements(ctx, data, depth); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// elements checks those of one page, and what they lead to.
func (t *tree) elements(ctx context.Context, page []byte, depth int) error {
	flags, count := binary.NativeEndian.Uint16(page[8:]), int(binary.NativeEndian.Uint16(page[10:]))
	if flags != flagBranch && flags != flagLeaf {
		return fmt.Errorf("it is neither a branch nor a leaf (%#x)", flags)
	}
	if pageHeader+count*elementSize > len(page) || flags == flagBranch && count == 0 {
		return fmt.Errorf("it cannot have %d elements", count)
	}
	for i := range count {
		element := page[pageHeader+i*elementSize:]
		if flags == flagBranch {
			if _, err := span(element, element, element[4:], make([]byte, 4)); err != nil {
				return err
			}
			if err := t.page(ctx, pageID(element[8:]), depth+1); err != nil {
				return err
			}
			continue
		}
		if err := t.leaf(ctx, element, depth); err != nil {
			return err
		}
	}
	return nil
}

// leaf checks an element of a leaf, and the bucket that it may be.
func (t *tree) leaf(ctx context.Context, element []byte, depth int) error {
	value, err := span(element, element[4:], element[8:], element[12:])
	if err != nil || binary.NativeEndian.Uint32(element)&flagBucket == 0 {
		return err
	}
	if len(value) < 16 {
		return errors.New("a bucket is too short")
	}
	if root := pageID(value); root != 0 {
		return t.page(ctx, root, depth+1)
	}
	if len(value) < 16+pageHeader || depth > maxDepth {
		return errors.New("a bucket is too short")
	}
	return t.elements(ctx, value[16:], depth+1)
}

// span returns the value of an element, by its position and the sizes of its key and of
// itself.
func span(element, pos, ksize, vsize []byte) (value []byte, err error) {
	start := int64(binary.NativeEndian.Uint32(pos)) + int64(binary.NativeEndian.Uint32(ksize))
	end := start + int64(binary.NativeEndian.Uint32(vsize))
	if end > int64(len(element)) {
		return nil, errors.New("an element reaches beyond its page")
	}
	return element[start:end], nil
}
