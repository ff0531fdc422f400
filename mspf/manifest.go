package mspf

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"lifeboat.im/lifeboat/mspf/event"
)

// What is wrong with a manifest.
var (
	ErrManifest    = errors.New("the manifest is not one of MSC2783")
	ErrVersion     = errors.New("a version of the format that is not known here")
	ErrUnknownItem = errors.New("an m.* item that is not understood")
)

// plan is what a manifest lets a reader do.
type plan struct {
	known   map[string]bool // items that are read
	skipped []string        // items that are passed over: foreign ones, and m.* that were accepted
}

// readManifest applies MSC2783's abort rule: what starts with m. has to be understood,
// or named by the one who imports. Nothing is read before.
func readManifest(text []byte, accept []string) (plan, error) {
	tree, _, err := event.Parse(text)
	if err != nil {
		return plan{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	version, isInt := tree["version"].(int64)
	items, isObject := tree["items"].(map[string]any)
	if !isInt || !isObject {
		return plan{}, fmt.Errorf("%w: it has no version and items", ErrManifest)
	}
	if version != 0 {
		return plan{}, fmt.Errorf("%w: %w: %d", ErrManifest, ErrVersion, version)
	}
	p := plan{known: map[string]bool{}}
	ours := map[string]bool{}
	for _, x := range parts() {
		ours[x.item] = true
	}
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(items)) {
		obj, ok := items[name].(map[string]any)
		if !ok {
			return plan{}, fmt.Errorf("%w: item %q is not an object", ErrManifest, name)
		}
		if err := checkItemName(name); err != nil {
			return plan{}, err
		}
		understood := ours[name] && obj["v"] == int64(1) && (!layout(name) || obj[layoutKey] == int64(1))
		switch {
		case understood:
			p.known[name] = true
		case !strings.HasPrefix(name, "m.") || slices.Contains(accept, name):
			p.skipped = append(p.skipped, name)
		default:
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		return plan{}, fmt.Errorf("%w: %s", ErrUnknownItem, strings.Join(unknown, ", "))
	}
	return p, nil
}

func checkItemName(name string) error {
	bad := name == "" || len(name) > 150 || !strings.Contains(name, ".")
	for _, e := range strings.Split(name, ".") {
		bad = bad || e == ""
	}
	for _, c := range name {
		bad = bad || !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-')
	}
	if bad {
		return fmt.Errorf("%w: item %.80q is no name as in org.example.thing", ErrManifest, name)
	}
	return nil
}

// owns says whether a file may belong to an item: MSC2783 has it prefixed with the
// item's name, in which any dot but the first of m. may be a directory.
func owns(item, path string) bool {
	flat := strings.ReplaceAll(path, "/", ".")
	return strings.HasPrefix(flat, item+".")
}
