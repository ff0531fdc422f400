package main

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

func text(name, help string, at func(*config) *string, mask func(string) string) option {
	return option{name, help, func(c *config, n *yaml.Node) error {
		if n.Kind != yaml.ScalarNode || n.Value == "" {
			return errors.New("want text")
		}
		*at(c) = n.Value
		return nil
	}, func(c *config) string {
		if mask != nil {
			return mask(*at(c))
		}
		return *at(c)
	}}
}

func path(name, help string, at func(*config) *string) option { return text(name, help, at, nil) }

func duration(name, help string, at func(*config) *time.Duration) option {
	return option{name, help, func(c *config, n *yaml.Node) error {
		d, err := parseDuration(n.Value)
		*at(c) = d
		return err
	}, func(c *config) string { return formatDuration(*at(c)) }}
}

func size(name, help string, at func(*config) *int64) option {
	return option{name, help, func(c *config, n *yaml.Node) error {
		if n.Value == "unlimited" {
			*at(c) = -1
			return nil
		}
		b, err := parseSize(n.Value)
		*at(c) = b
		return err
	}, func(c *config) string {
		if *at(c) < 0 {
			return "unlimited"
		}
		return formatSize(*at(c))
	}}
}

func number(name, help string, at func(*config) *int) option {
	return option{name, help, func(c *config, n *yaml.Node) error {
		v, err := strconv.Atoi(n.Value)
		if err != nil || v < 1 {
			return fmt.Errorf("want a whole number from 1, have %q", n.Value)
		}
		*at(c) = v
		return nil
	}, func(c *config) string { return strconv.Itoa(*at(c)) }}
}

// parseDuration reads Go's durations and whole days and weeks: 90s, 1h30m, 14d, 2w.
func parseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("want a time such as 5s, 10m, 1h or 14d, have %q", s)
	unit := time.Duration(0)
	switch {
	case strings.HasSuffix(s, "d"):
		unit = 24 * time.Hour
	case strings.HasSuffix(s, "w"):
		unit = 7 * 24 * time.Hour
	}
	if unit != 0 {
		n, err := strconv.ParseInt(s[:len(s)-1], 10, 32)
		if err != nil || n < 1 {
			return 0, bad
		}
		return time.Duration(n) * unit, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, bad
	}
	return d, nil
}

func formatDuration(d time.Duration) string {
	if day := 24 * time.Hour; d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

var sizeForm = regexp.MustCompile(`^([0-9]+)\s*([A-Za-z]*)$`)

// parseSize reads bytes with an optional unit: 2GiB, 512 MiB, 10MB, 4096.
func parseSize(s string) (int64, error) {
	bad := fmt.Errorf("want a size such as 512MiB or 2GiB, have %q", s)
	m := sizeForm.FindStringSubmatch(s)
	if m == nil {
		return 0, bad
	}
	n, err := strconv.ParseInt(m[1], 10, 62)
	if err != nil {
		return 0, bad
	}
	unit := int64(1)
	switch strings.ToLower(m[2]) {
	case "", "b":
	case "kib", "k":
		unit = 1 << 10
	case "mib", "m":
		unit = 1 << 20
	case "gib", "g":
		unit = 1 << 30
	case "tib", "t":
		unit = 1 << 40
	case "kb":
		unit = 1e3
	case "mb":
		unit = 1e6
	case "gb":
		unit = 1e9
	case "tb":
		unit = 1e12
	default:
		return 0, bad
	}
	if n < 1 || n > (1<<62)/unit {
		return 0, bad
	}
	return n * unit, nil
}

func formatSize(n int64) string {
	for _, u := range []struct {
		size int64
		name string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= u.size && n%u.size == 0 {
			return fmt.Sprintf("%d%s", n/u.size, u.name)
		}
	}
	return strconv.FormatInt(n, 10)
}

// clearYAML drops the prefix that says nothing to a person.
func clearYAML(err error) string {
	return strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\n  ", " "), "yaml: unmarshal errors: ")
}

// distance is the number of letters to insert, drop, change or swap with their
// neighbour that turns a into b (optimal string alignment).
func distance(a, b string) int {
	prev2, prev := []int(nil), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev = prev, cur
	}
	return prev[len(b)]
}

func isURL(s string) bool { return strings.Contains(s, "://") }

func isPostgresURL(s string) bool {
	return strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://")
}

// keywordPassword finds password='…' in a keyword/value connection string (libpq
// documentation, "Connection Strings").
var keywordPassword = regexp.MustCompile(`(?i)\b((?:ssl)?password)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)+)`)

// hasPassword reports whether a connection string holds a password itself.
func hasPassword(dsn string) bool {
	if !isPostgresURL(dsn) {
		return keywordPassword.MatchString(dsn)
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return false
	}
	_, set := u.User.Password()
	return set || u.Query().Has("password") || u.Query().Has("sslpassword")
}

// redactDSN hides the password of a connection string or of any other URL.
func redactDSN(dsn string) string {
	if !isURL(dsn) {
		return keywordPassword.ReplaceAllString(dsn, "$1=•••")
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "(not a URL that can be read)"
	}
	if _, set := u.User.Password(); set {
		u.User = url.UserPassword(u.User.Username(), "xxxxx")
	}
	q := u.Query()
	for _, k := range []string{"password", "sslpassword"} {
		if q.Has(k) {
			q.Set(k, "xxxxx")
		}
	}
	u.RawQuery = q.Encode()
	return strings.ReplaceAll(u.String(), "xxxxx", "•••")
}

// withPassword puts a password into a connection string.
func withPassword(dsn, password string) (string, error) {
	if !isPostgresURL(dsn) {
		quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password)
		return dsn + " password='" + quoted + "'", nil
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "", usagef("source is not a URL that can be read")
	}
	u.User = url.UserPassword(u.User.Username(), password)
	return u.String(), nil
}
