package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"

	"lifeboat.im/lifeboat/chunkstore"
)

// errPrecondition: the server refused because of If-None-Match or If-Match.
var errPrecondition = errors.New("precondition failed")

// try does f, again and again while it fails for a passing reason. f gets the number of
// tries before, and a context that bounds a request on size bytes.
func (s *Store) try(ctx context.Context, size int, f func(ctx context.Context, tries int) error) error {
	return s.tryFor(ctx, int64(size), func(ctx context.Context, tries int, _ func(int64)) error { return f(ctx, tries) })
}

// tryFor is try for an f that learns the size later and then extends the time.
func (s *Store) tryFor(ctx context.Context, size int64, f func(context.Context, int, func(int64)) error) error {
	return s.repeat(ctx, func(tries int) error { return s.bounded(ctx, size, tries, f) })
}

// repeat calls f until it succeeds, fails for good, or the time for retries is over.
func (s *Store) repeat(ctx context.Context, f func(tries int) error) error {
	began := s.now()
	for tries := 0; ; tries++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := f(tries)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err() // whatever err says: the caller ended it
		case !passing(err):
			return err
		}
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			err = fmt.Errorf("%w: %v", errLate, err) // not the caller's: what says so is cut off
		}
		wait := pause(tries)
		if tries > 0 && s.now().Sub(began)+wait > s.timeouts.Retry {
			return fmt.Errorf("%s: %w after %d tries: %w", s.at.Endpoint, ErrUnavailable, tries+1, err)
		}
		s.log.Warn("object storage: trying again", "server", s.at.Endpoint, "tries", tries+1, "in", wait.Round(time.Millisecond), "error", err)
		if err := rest(ctx, wait); err != nil {
			return err
		}
	}
}

// bounded is one try within its time.
func (s *Store) bounded(ctx context.Context, size int64, tries int, f func(context.Context, int, func(int64)) error) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bound := func(n int64) time.Duration {
		return s.timeouts.Total + time.Duration(float64(n)/float64(s.timeouts.Rate)*float64(time.Second))
	}
	// Not a deadline: its error would look like the caller's own.
	timer := time.AfterFunc(bound(size), func() { cancel(errLate) })
	defer timer.Stop()
	err := f(inner, tries, func(n int64) { timer.Reset(bound(n)) })
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(inner), errLate) {
		return errLate
	}
	return err
}

// final is an error that is not the server's: no other try.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// errLate: a request took longer than its size allows.
var errLate = errors.New("no complete answer in time")

// pause grows from 0.1 to 5 seconds; a random half keeps clients apart.
func pause(tries int) time.Duration {
	d := min(100*time.Millisecond<<min(tries, 6), 5*time.Second)
	return d/2 + rand.N(d/2)
}

func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// meaning gives an error of the library the sentinel that says what it means.
func meaning(err error) error {
	var e minio.ErrorResponse
	if err == nil || !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Code == minio.NoSuchBucket:
		return fmt.Errorf("%w: %w", ErrNoBucket, err)
	case e.StatusCode == http.StatusNotFound:
		return chunkstore.ErrNotFound
	case e.StatusCode == http.StatusPreconditionFailed:
		return errPrecondition
	case e.StatusCode == http.StatusNotImplemented:
		return fmt.Errorf("%w: %w (%s): the server does not implement a header of ours", chunkstore.ErrUnsafe, err, e.Code)
	case e.StatusCode == http.StatusForbidden && e.Code != "RequestTimeTooSkewed", e.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%w: %w (%s)", ErrDenied, err, e.Code)
	}
	return fmt.Errorf("%w (%s, HTTP %d)", err, e.Code, e.StatusCode)
}

// passing says whether an error may be gone the next time: anything that is no clear
// word of the server.
func passing(err error) bool {
	var e minio.ErrorResponse
	if errors.As(err, &e) && e.StatusCode != 0 {
		return passingStatus(e)
	}
	var (
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		host      x509.HostnameError
		name      *net.DNSError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.As(err, new(final)):
		return false
	case slices.ContainsFunc([]error{chunkstore.ErrNotFound, chunkstore.ErrExists, chunkstore.ErrDamaged, errPrecondition, errOrder, errTooLarge}, func(e error) bool { return errors.Is(err, e) }):
		return false
	case errors.As(err, &authority), errors.As(err, &invalid), errors.As(err, &host), errors.As(err, &record):
		return false
	case errors.As(err, &name) && name.IsNotFound:
		return false
	}
	return true
}

func passingStatus(e minio.ErrorResponse) bool {
	switch e.StatusCode {
	case http.StatusOK: // with an error inside
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	case http.StatusRequestTimeout, http.StatusTooManyRequests, 499: // 499: nginx, the client went away
		return true
	case http.StatusConflict:
		// Others say that the key is the folder of another one.
		return slices.Contains([]string{"ConditionalRequestConflict", "OperationAborted", "Conflict"}, e.Code)
	case http.StatusBadRequest:
		// The body did not come through whole, says the server.
		return slices.Contains([]string{"RequestTimeout", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}, e.Code)
	}
	return e.StatusCode >= 500
}
