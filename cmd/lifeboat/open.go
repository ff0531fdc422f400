package main

import (
	"strings"
)

// repositoryDir gives the folder of the repository that the configuration names.
func repositoryDir(c *config) (string, error) {
	switch {
	case c.Repository == "":
		return "", usagef("no repository is named: set repository: in %s, or give --repo", orDefault(c.Path, "lifeboat.yaml"))
	case strings.HasPrefix(c.Repository, "file://"):
		return strings.TrimPrefix(c.Repository, "file://"), nil
	case isURL(c.Repository):
		return "", usagef("repository %s: only a folder on this host can be the repository in this version; give its path", redactDSN(c.Repository))
	}
	return c.Repository, nil
}

func orDefault(s, or string) string {
	if s == "" {
		return or
	}
	return s
}
