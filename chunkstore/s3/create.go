package s3

import (
	"context"
	"crypto/md5" //nolint:gosec // what S3 asks for in Content-MD5
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/minio/minio-go/v7"

	"lifeboat.im/lifeboat/chunkstore"
)

// Names of an object's metadata, as the HTTP headers have them.
const (
	metaPrefix = "X-Amz-Meta-"
	metaWrite  = "Lifeboat-Write"  // drawn for each Create
	metaSHA256 = "Lifeboat-Sha256" // of the object, 64 hex digits
)

// errVanished: the server refused the create because an object was there, and then there
// was none.
var errVanished = errors.New("the object that was in the way is gone")

// Create implements [chunkstore.Backend]; the package comment says how.
func (s *Store) Create(ctx context.Context, key string, data []byte) error {
	if err := s.create(ctx, key, data); err != nil {
		return fmt.Errorf("create %s: %w", key, err)
	}
	return nil
}

func (s *Store) create(ctx context.Context, key string, data []byte) error {
	if err := chunkstore.CheckKey(key); err != nil {
		return err
	}
	w := newWrite(s.full(key), data, !s.single)
	return s.try(ctx, len(data), func(ctx context.Context, tries int) error {
		if tries > 0 || s.single || len(data) >= s.askFirst {
			// An earlier try may have stored it, or an earlier copy of the same table.
			if err := s.whose(ctx, w); !errors.Is(err, chunkstore.ErrNotFound) {
				return err
			}
		}
		err := meaning(s.put(ctx, w))
		// A crash here leaves the whole object or none. Whoever comes back finds an object
		// with another number than its own, and has to look at what it says.
		if !errors.Is(err, errPrecondition) {
			return err // chunkstore.ErrUnsafe: the server knows no If-None-Match
		}
		// Also at the first try: something between us and the server may have sent it twice.
		if err = s.whose(ctx, w); errors.Is(err, chunkstore.ErrNotFound) {
			return errVanished
		}
		return err
	})
}

// write is one Create, the same bytes and the same number at every try.
type write struct {
	key  string // in the bucket
	data []byte
	id   string
	md5  string // base64
	sha  string // hex
	opts minio.PutObjectOptions
}

func newWrite(key string, data []byte, ifAbsent bool) *write {
	sha, sum := sha256.Sum256(data), md5.Sum(data)
	w := &write{
		key: key, data: data, id: rand.Text(),
		md5: base64.StdEncoding.EncodeToString(sum[:]), sha: hex.EncodeToString(sha[:]),
	}
	w.opts = minio.PutObjectOptions{
		UserMetadata: map[string]string{metaWrite: w.id, metaSHA256: w.sha},
		// One signature over the whole body instead of one for each piece, with TLS too.
		DisableContentSha256: true,
	}
	if ifAbsent {
		w.opts.SetMatchETagExcept("*")
	}
	return w
}

// put is one request.
func (s *Store) put(ctx context.Context, w *write) error {
	b := &body{pace: s.pace, done: ctx.Done(), data: w.data}
	defer b.leave()
	_, err := s.core.PutObject(ctx, s.at.Bucket, w.key, b, int64(len(w.data)), w.md5, w.sha, w.opts)
	return err
}

// whose says whose object is at w's key: nil is w's own, ErrExists another one.
func (s *Store) whose(ctx context.Context, w *write) error {
	info, err := s.core.StatObject(ctx, s.at.Bucket, w.key, minio.StatObjectOptions{})
	if err != nil {
		return meaning(err)
	}
	if info.Metadata.Get(metaPrefix+metaWrite) == w.id {
		return nil
	}
	return chunkstore.ErrExists
}
