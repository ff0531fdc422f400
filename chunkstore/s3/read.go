package s3

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"lifeboat.im/lifeboat/chunkstore"
)

// MaxObject bounds, in bytes, what Get reads; nothing of a repository is larger. It
// keeps a server that lies about a length from taking all memory.
const MaxObject = 1 << 30

var (
	errTooLarge = errors.New("object is larger than any of a repository")
	// errOrder: what the store needs is missing; Amazon's "directory buckets" do so.
	errOrder = errors.New("the server does not list in the order of the keys")
)

// Get implements [chunkstore.Backend]. What a broken line cut off is fetched from there on,
// if the object is still the same (If-Match); the whole is held against the SHA-256 that
// Create stored beside it. An object without one, which another program copied here, is held
// against its length alone; [chunkstore] verifies what it reads anyway.
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	data, err := s.get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	return data, nil
}

func (s *Store) get(ctx context.Context, key string) ([]byte, error) {
	if err := chunkstore.CheckKey(key); err != nil {
		return nil, err
	}
	var d download
	wrong := 0
	err := s.tryFor(ctx, 0, func(ctx context.Context, _ int, extend func(int64)) error {
		err := s.fetch(ctx, s.full(key), &d, extend)
		if errors.Is(err, chunkstore.ErrDamaged) {
			if wrong++; wrong == 1 {
				return fmt.Errorf("%w: %v", errReply, err) // perhaps on the way only
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return d.data, nil
}

// GetFrom returns the object at key without its first bytes, as Get reads on after a line
// broke: a range of the object that is there now. [chunkstore.Probe] tries it.
func (s *Store) GetFrom(ctx context.Context, key string, from int64) ([]byte, error) {
	var d download
	err := chunkstore.CheckKey(key)
	if err == nil {
		err = s.tryFor(ctx, 0, func(ctx context.Context, _ int, extend func(int64)) error {
			info, err := s.core.StatObject(ctx, s.at.Bucket, s.full(key), minio.StatObjectOptions{})
			if err != nil {
				return meaning(err)
			}
			// What is in front is not known, so the whole has no checksum here.
			d = download{data: make([]byte, from), etag: info.ETag, unchecked: true}
			return s.fetch(ctx, s.full(key), &d, extend)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("get %s from byte %d: %w", key, from, err)
	}
	return d.data[min(from, int64(len(d.data))):], nil
}

// download is an object as far as it was read.
type download struct {
	data []byte
	etag string
	size int64
	sha  string
	// unchecked: data is not all of the object's.
	unchecked bool
}

// fetch reads d's object on to its end. extend allows time for so many bytes more.
func (s *Store) fetch(ctx context.Context, name string, d *download, extend func(int64)) error {
	var o minio.GetObjectOptions
	if len(d.data) > 0 {
		if err := errors.Join(o.SetRange(int64(len(d.data)), 0), o.SetMatchETag(d.etag)); err != nil {
			return err
		}
	}
	r, info, head, err := s.core.GetObject(ctx, s.at.Bucket, name, o)
	if err != nil {
		if err = meaning(err); errors.Is(err, errPrecondition) {
			*d = download{} // another object since: from its beginning
			return fmt.Errorf("%w: the object changed while it was read", errReply)
		}
		return err
	}
	defer r.Close()
	if err := d.begin(info, head); err != nil {
		return err
	}
	left := d.size - int64(len(d.data))
	extend(left)
	if err := d.read(io.LimitReader(r, left)); err != nil {
		return err
	}
	if d.unchecked {
		return nil
	}
	got := sha256.Sum256(d.data)
	if d.sha != "" && hex.EncodeToString(got[:]) != d.sha {
		*d = download{}
		return fmt.Errorf("%w: its SHA-256 is not the stored one", chunkstore.ErrDamaged)
	}
	return nil
}

// begin takes what the head of a reply says.
func (d *download) begin(info minio.ObjectInfo, head http.Header) error {
	from := int64(len(d.data))
	if from > 0 && !strings.HasPrefix(head.Get("Content-Range"), fmt.Sprintf("bytes %d-", from)) {
		from, d.data = 0, d.data[:0] // the server sends all of it once more
	}
	switch {
	case info.Size < 0:
		return fmt.Errorf("%w: no length", errReply)
	case info.Size > MaxObject-from:
		return fmt.Errorf("%w: %d bytes, at most %d", errTooLarge, from+info.Size, MaxObject)
	}
	d.etag, d.size = info.ETag, from+info.Size
	d.sha = info.Metadata.Get(metaPrefix + metaSHA256)
	return nil
}

// read appends what r has, up to d's size.
func (d *download) read(r io.Reader) error {
	if d.data == nil {
		d.data = make([]byte, 0, min(d.size, 64<<20)) // more only when it really comes
	}
	for int64(len(d.data)) < d.size {
		if len(d.data) == cap(d.data) {
			d.data = append(d.data, 0)[:len(d.data)]
		}
		room := d.data[len(d.data):min(int64(cap(d.data)), d.size)]
		n, err := r.Read(room)
		d.data = d.data[:len(d.data)+n]
		if err != nil && int64(len(d.data)) < d.size {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// Stat implements [chunkstore.Backend].
func (s *Store) Stat(ctx context.Context, key string) (chunkstore.Info, error) {
	var info minio.ObjectInfo
	err := chunkstore.CheckKey(key)
	if err == nil {
		err = s.try(ctx, 0, func(ctx context.Context, _ int) (err error) {
			info, err = s.core.StatObject(ctx, s.at.Bucket, s.full(key), minio.StatObjectOptions{})
			return meaning(err)
		})
	}
	if err != nil {
		return chunkstore.Info{}, fmt.Errorf("stat %s: %w", key, err)
	}
	return chunkstore.Info{Key: key, Size: info.Size, Modified: info.LastModified}, nil
}

// List implements [chunkstore.Backend]. After an error it goes on behind the last key.
func (s *Store) List(ctx context.Context, prefix string, f func(chunkstore.Info) error) error {
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 && chunkstore.CheckKey(prefix[:i]) != nil {
		return nil // no object has such a prefix
	}
	l := &listing{s: s, prefix: s.full(prefix), f: f}
	for {
		at := l.last
		err := s.repeat(ctx, func(int) error { return l.run(ctx) })
		var stop final
		switch {
		case err == nil:
			return nil
		case errors.As(err, &stop):
			return stop.error
		case errors.Is(err, ErrUnavailable) && l.last > at:
			continue // it came further: more than one bad moment in a long list
		}
		return fmt.Errorf("list %s: %w", prefix, err)
	}
}

// listing is one List.
type listing struct {
	s      *Store
	prefix string
	f      func(chunkstore.Info) error
	last   string // in the bucket
}

// run lists what comes behind last. The time that f takes is not the server's.
func (l *listing) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(l.s.timeouts.Total, func() { cancel(errLate) })
	defer late.Stop()
	o := minio.ListObjectsOptions{Prefix: l.prefix, Recursive: true, StartAfter: l.last, MaxKeys: l.s.page}
	for i := range l.s.core.ListObjectsIter(ctx, l.s.at.Bucket, o) {
		late.Stop()
		if i.Err != nil {
			return meaning(i.Err)
		}
		if err := l.one(i); err != nil {
			return err
		}
		late.Reset(l.s.timeouts.Total)
	}
	return context.Cause(ctx)
}

func (l *listing) one(i minio.ObjectInfo) error {
	key, ours := strings.CutPrefix(i.Key, l.s.root)
	if !ours || chunkstore.CheckKey(key) != nil {
		return nil // what somebody else put there
	}
	if i.Key <= l.last {
		return fmt.Errorf("%w: %s after %s", errOrder, i.Key, l.last)
	}
	l.last = i.Key
	if err := l.f(chunkstore.Info{Key: key, Size: i.Size, Modified: i.LastModified}); err != nil {
		return final{err}
	}
	return nil
}
