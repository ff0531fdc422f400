package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"lifeboat.im/lifeboat/chunkstore"
)

// Errors of a bucket, beside those of [chunkstore].
var (
	// ErrUnavailable: the server did not answer, or only with errors that pass, for as
	// long as [Timeouts].Retry allows.
	ErrUnavailable = errors.New("object storage does not answer")
	// ErrDenied: the server knows the key and does not allow it, or does not know it.
	ErrDenied = errors.New("object storage denies access")
	// ErrNoBucket: the server has no such bucket.
	ErrNoBucket = errors.New("no such bucket")
	// ErrNoKey: no access key is configured.
	ErrNoKey = errors.New("no access key for object storage")
)

// Secret is a secret key. However it is printed, it prints as "•••".
type Secret string

const redacted = "•••"

// String implements [fmt.Stringer].
func (Secret) String() string { return redacted }

// GoString implements [fmt.GoStringer].
func (Secret) GoString() string { return redacted }

// Format implements [fmt.Formatter]: every verb prints the same.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements [slog.LogValuer].
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Style is how the bucket is named in a request.
type Style byte

// The styles.
const (
	// StyleAuto is by host name on Amazon's servers, by path on all others.
	StyleAuto Style = iota
	// StylePath is https://host/bucket/key.
	StylePath
	// StyleHost is https://bucket.host/key.
	StyleHost
)

// Options of a bucket.
type Options struct {
	Location Location
	// AccessKey, SecretKey and, for keys that expire, SessionToken.
	AccessKey    string
	SecretKey    Secret
	SessionToken Secret
	// Region of the signature; "" is the one in an Amazon host name, else us-east-1.
	Region string
	Style  Style
	// CA holds the certificates (PEM) to trust instead of the system's.
	CA []byte
	// UploadLimit in bytes a second over all requests; 0 is none.
	UploadLimit int64
	// Timeouts; the zero value is [DefaultTimeouts].
	Timeouts Timeouts
	// Log gets a line for each try that failed and is repeated; nil is nowhere.
	Log *slog.Logger
}

// Timeouts bound each request. Whatever the server does, an operation on n bytes ends
// after Retry + 2 × (Total + n/Rate) at most.
type Timeouts struct {
	// Connect bounds the connection, and once more TLS's greeting.
	Connect time.Duration
	// Reply bounds the wait for the head of a reply after the request was sent.
	Reply time.Duration
	// Idle ends a connection on which nothing moves.
	Idle time.Duration
	// Total and Rate (bytes a second) bound one request of n bytes: Total + n/Rate.
	Total time.Duration
	Rate  int64
	// Retry is how long after its begin an operation still begins another try.
	Retry time.Duration
}

// DefaultTimeouts are for a server far away on a bad line.
func DefaultTimeouts() Timeouts {
	return Timeouts{
		Connect: 10 * time.Second, Reply: 30 * time.Second, Idle: 30 * time.Second,
		Total: time.Minute, Rate: 32 << 10, Retry: time.Minute,
	}
}

// askFirst: a server reads the whole body before it says 412, so a table that is copied
// once more, or a copy that begins again, would send everything once more. To ask costs a
// twelfth of a PUT at Amazon's list price, and a moment.
const askFirst = 64 << 10

// Store is a [chunkstore.Backend] and [chunkstore.Remover]. It is safe for concurrent
// use by many processes.
type Store struct {
	core     minio.Core
	at       Location
	root     string // the prefix, with a slash at its end if there is one
	timeouts Timeouts
	pace     *pace
	log      *slog.Logger
	now      func() time.Time
	page     int // keys in one reply to List
	askFirst int // size from which Create asks before it sends, in bytes
	// single: the server cannot create-if-absent, see [Store.SingleWriter].
	single bool
}

// Open makes a client. It asks the server nothing: what is wrong with the place or the
// keys is the first operation's error.
func Open(o Options) (*Store, error) {
	if o.AccessKey == "" || o.SecretKey == "" {
		return nil, fmt.Errorf("open %s: %w", o.Location, ErrNoKey)
	}
	t := o.Timeouts
	if t == (Timeouts{}) {
		t = DefaultTimeouts()
	}
	if o.UploadLimit > 0 {
		// Sixteen uploads may share the line and none of them is late.
		t.Rate = max(min(t.Rate, o.UploadLimit/16), 1)
	}
	carrier, err := newTransport(t, o.CA)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", o.Location, err)
	}
	client, err := minio.NewCore(o.Location.Endpoint, &minio.Options{
		Creds:  credentials.NewStaticV4(o.AccessKey, string(o.SecretKey), string(o.SessionToken)),
		Secure: !o.Location.Plain, Transport: carrier, MaxRetries: 1, Region: o.Region, BucketLookup: o.Style.lookup(),
		CustomRegionViaURL: regionOf,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", o.Location, err)
	}
	client.SetAppInfo("lifeboat", "0")
	s := &Store{
		core: *client, at: o.Location, timeouts: t, log: o.Log, now: time.Now, page: 1000, askFirst: askFirst,
		pace: &pace{rate: o.UploadLimit, now: time.Now},
	}
	if o.Location.Prefix != "" {
		s.root = o.Location.Prefix + "/"
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// SingleWriter is the same bucket on a server that cannot create-if-absent: Create looks
// first and then stores, so of two at once the later one overwrites the other. It is for
// repositories whose owner promised that one agent only will ever write.
func (s *Store) SingleWriter() *Store {
	t := *s
	t.single = true
	return &t
}

// Location is where the objects lie.
func (s *Store) Location() Location { return s.at }

// Close lets go of the connections.
func (s *Store) Close() error {
	s.core.CredContext().Client.CloseIdleConnections()
	return nil
}

func (s Style) lookup() minio.BucketLookupType {
	switch s {
	case StylePath:
		return minio.BucketLookupPath
	case StyleHost:
		return minio.BucketLookupDNS
	}
	return minio.BucketLookupAuto
}

// full is the object's name in the bucket.
func (s *Store) full(key string) string { return s.root + key }

// regionOf is the region of a host when none is configured; "" asks the server.
func regionOf(u url.URL) string {
	if r := s3utils.GetRegionFromURL(u); r != "" || s3utils.IsAmazonEndpoint(u) {
		return r
	}
	return "us-east-1" // what servers take that have no regions
}

// Remove implements [chunkstore.Remover]. A crash leaves the object or not. In a bucket
// with versions the server keeps it as an old version.
func (s *Store) Remove(ctx context.Context, key string) error {
	err := chunkstore.CheckKey(key)
	if err == nil {
		err = s.try(ctx, 0, func(ctx context.Context, _ int) error {
			return notNotFound(s.core.RemoveObject(ctx, s.at.Bucket, s.full(key), minio.RemoveObjectOptions{}))
		})
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	return nil
}

// notNotFound is err, but nil for an object that is not there.
func notNotFound(err error) error {
	if err = meaning(err); errors.Is(err, chunkstore.ErrNotFound) {
		return nil
	}
	return err
}
