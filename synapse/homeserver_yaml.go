package synapse

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// configFiles lists what Synapse reads for a -c option: the file, with a folder
// conf.d beside it, or the *.yaml files of a folder, in sorted order.
func configFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, bad("%s does not exist: name the file that Synapse is started with (-c)", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, bad("%s may not be read: put the user that runs lifeboat into the group of the file, or give it the file as a credential", path)
	case err != nil:
		return nil, bad("%v", err)
	}
	if info.IsDir() {
		files, err := yamlFiles(path)
		if err == nil && len(files) == 0 {
			err = bad("%s holds no *.yaml file", path)
		}
		return files, err
	}
	files := []string{path}
	confd := filepath.Join(filepath.Dir(path), "conf.d")
	if info, err := os.Stat(confd); err == nil && info.IsDir() {
		more, err := yamlFiles(confd)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	return files, nil
}

func yamlFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name, as Synapse sorts them
	if err != nil {
		return nil, bad("%s: %v", dir, err)
	}
	var files []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".yaml") && !e.IsDir() {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}

// maxConfig bounds a configuration file; real ones have some 100 KiB.
const maxConfig = 16 << 20

// readSections merges files as Synapse does: top-level sections replace each other.
func readSections(files []string) (section, error) {
	merged := section{&yaml.Node{Kind: yaml.MappingNode}}
	for _, file := range files {
		data, err := readBounded(file)
		if err != nil {
			return merged, err
		}
		dec := yaml.NewDecoder(strings.NewReader(data))
		var doc yaml.Node
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			continue // Synapse ignores an empty file of several
		} else if err != nil {
			return merged, bad("%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if dec.Decode(new(yaml.Node)) == nil {
			return merged, bad("%s: a second YAML document after ---: Synapse would not read this file either", file)
		}
		top := resolve(doc.Content[0])
		if top.Kind != yaml.MappingNode {
			return merged, bad("%s: not lines of the form key: value", file)
		}
		if n := foreignTag(top, 0); n != nil {
			return merged, bad("%s:%d: the tag %s asks for code; the file is only read as data, by Synapse as well", file, n.Line, n.Tag)
		}
		merged.Content = append(merged.Content, top.Content...)
	}
	return merged, nil
}

func readBounded(file string) (string, error) {
	f, err := os.Open(file)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", bad("%s may not be read: put the user that runs lifeboat into the group of the file", file)
	case err != nil:
		return "", bad("%v", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return "", bad("%s: %v", file, err)
	}
	if len(data) > maxConfig {
		return "", bad("%s is larger than 16 MiB: that is no configuration", file)
	}
	return string(data), nil
}

// foreignTag finds a tag that is not plain data.
func foreignTag(n *yaml.Node, depth int) *yaml.Node {
	if depth > 100 {
		return nil
	}
	if n.Kind != yaml.AliasNode && !strings.HasPrefix(n.ShortTag(), "!!") || strings.HasPrefix(n.Tag, "!!python") || strings.Contains(n.Tag, "python/") {
		return n
	}
	for _, c := range n.Content {
		if f := foreignTag(c, depth+1); f != nil {
			return f
		}
	}
	return nil
}

// section is a mapping of the configuration; a missing one is empty.
type section struct{ *yaml.Node }

func resolve(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// get gives the value of a key, the last one if it is there twice, as PyYAML does;
// nil when there is none or it is null.
func (s section) get(key string) *yaml.Node { return lookUp(s.Node, key, map[*yaml.Node]bool{}) }

// lookUp looks into each mapping once, whatever merges it: they may be many, and
// merge each other.
func lookUp(in *yaml.Node, key string, seen map[*yaml.Node]bool) *yaml.Node {
	n := resolve(in)
	if n == nil || n.Kind != yaml.MappingNode || seen[n] {
		return nil
	}
	seen[n] = true
	for i := len(n.Content) - 2; i >= 0; i -= 2 {
		if n.Content[i].Value != key {
			continue
		}
		if v := resolve(n.Content[i+1]); v.ShortTag() != "!!null" {
			return v
		}
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].ShortTag() != "!!merge" {
			continue
		}
		from := []*yaml.Node{resolve(n.Content[i+1])}
		if from[0].Kind == yaml.SequenceNode {
			from = from[0].Content
		}
		for _, f := range from {
			if v := lookUp(f, key, seen); v != nil {
				return v
			}
		}
	}
	return nil
}

// text gives a scalar as it is written; "" when there is none.
func (s section) text(key string) string {
	if v := s.get(key); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}

// truth reads a boolean as YAML 1.1 has them, which is what PyYAML reads.
func (s section) truth(key string) bool {
	return slices.Contains([]string{"true", "yes", "on"}, strings.ToLower(s.text(key)))
}

func (s section) section(key string) section { return section{s.get(key)} }

func (s section) list(key string) []*yaml.Node {
	v := s.get(key)
	if v == nil || v.Kind != yaml.SequenceNode {
		return nil
	}
	all := make([]*yaml.Node, len(v.Content))
	for i, n := range v.Content {
		all[i] = resolve(n)
	}
	return all
}

// keys gives the keys of a mapping, each once, without those that it merges.
func (s section) keys(key string) []string {
	v := s.get(key)
	if v == nil || v.Kind != yaml.MappingNode {
		return nil
	}
	var all []string
	for i := 0; i+1 < len(v.Content); i += 2 {
		if k := v.Content[i]; k.ShortTag() != "!!merge" && !slices.Contains(all, k.Value) {
			all = append(all, k.Value)
		}
	}
	return all
}

// plainInt is a number that YAML 1.1 and every person read alike.
var plainInt = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)

// otherWorlds is text without quotes that PyYAML does not take for text: booleans,
// octal, hexadecimal, binary and sexagesimal numbers, underscores, fractions, dates.
var otherWorlds = regexp.MustCompile(`^(?i:yes|no|on|off|true|false|y|n|[-+]?0[xbo]?[0-9a-f_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])*(\.[0-9_]*)?|[-+]?\.[0-9_]+|[-+]?[0-9][0-9_]*\.[0-9_]*e[-+][0-9]+|[-+]?\.(inf|nan)|\d{4}-\d\d?-\d\d?.*)$`)

// unclear reports whether a scalar means something else to PyYAML than it looks.
func unclear(n *yaml.Node) bool {
	return n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 &&
		!plainInt.MatchString(n.Value) && otherWorlds.MatchString(n.Value)
}
