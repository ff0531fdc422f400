package s3

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"lifeboat.im/lifeboat/chunkstore"
)

// ErrURL: the text does not say where the objects lie.
var ErrURL = errors.New("not a place in object storage")

// Schemes of the URLs that [ParseURL] reads.
const (
	scheme      = "s3"
	plainScheme = "s3+http"
)

// IsURL reports whether a repository's name is one of this package's.
func IsURL(s string) bool {
	return strings.HasPrefix(s, scheme+"://") || strings.HasPrefix(s, plainScheme+"://")
}

// Location is where a repository's objects lie.
type Location struct {
	// Endpoint is the server, host or host:port.
	Endpoint string
	// Plain is HTTP without TLS, to a server on this host.
	Plain bool
	// Bucket must exist; nothing here makes one.
	Bucket string
	// Prefix of all keys, without slashes at its ends; "" is the whole bucket.
	Prefix string
}

// String is the location's URL.
func (l Location) String() string {
	u := url.URL{Scheme: scheme, Host: l.Endpoint, Path: "/" + l.Bucket}
	if l.Plain {
		u.Scheme = plainScheme
	}
	if l.Prefix != "" {
		u.Path += "/" + l.Prefix
	}
	return u.String()
}

// ParseURL reads s3://host[:port]/bucket[/prefix] and, for servers on this host only,
// s3+http://…. Other errors than [ErrURL] do not exist.
func ParseURL(s string) (Location, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Location{}, fmt.Errorf("%w: it cannot be read as a URL", ErrURL) // err quotes it, with what may be secret
	}
	bad := func(format string, args ...any) (Location, error) {
		return Location{}, fmt.Errorf("%w: %s; want s3://host[:port]/bucket[/prefix]", ErrURL, fmt.Sprintf(format, args...))
	}
	switch {
	case u.Scheme != scheme && u.Scheme != plainScheme:
		return bad("its scheme is %q", u.Scheme)
	case u.User != nil:
		return bad("keys do not belong into it: set s3: {access_key_file, secret_key_file}, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	case u.RawQuery != "" || u.Fragment != "":
		return bad("nothing may follow ? or #")
	case u.Hostname() == "":
		return bad("it names no server")
	}
	l := Location{Endpoint: u.Host, Plain: u.Scheme == plainScheme}
	if l.Plain && !loopback(u.Hostname()) {
		return bad("%s is for a server on this host, %s is another: without TLS anybody on the way could read and alter what is stored", plainScheme, u.Hostname())
	}
	l.Bucket, l.Prefix, _ = strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	l.Prefix = strings.TrimSuffix(l.Prefix, "/")
	if l.Bucket == "" {
		return bad("it names no bucket (the server is %s)", l.Endpoint)
	}
	if chunkstore.CheckKey(l.Bucket) != nil || len(l.Bucket) < 3 || len(l.Bucket) > 63 {
		return bad("%q is no name of a bucket", l.Bucket)
	}
	if l.Prefix != "" && chunkstore.CheckKey(l.Prefix) != nil {
		return bad("the prefix %q holds more than letters, digits, - _ . and single slashes", l.Prefix)
	}
	return l, nil
}

// loopback reports whether a host is surely this one.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
