package mspf

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tampered writes an archive as a directory, changes it, makes its integrity item right
// again, and verifies it.
func tampered(t testing.TB, form string, change func(dir string)) *Verdict {
	t.Helper()
	dir := written(t, form)
	change(dir)
	reseal(t, dir)
	v, err := Verify(t.Context(), dir, ReadOptions{})
	must(t, err)
	return v
}

func reseal(t testing.TB, dir string) {
	t.Helper()
	const name = Prefix + "integrity.json"
	var sums Integrity
	must(t, json.Unmarshal(read(t, filepath.Join(dir, name)), &sums))
	clear(sums.Files)
	sums.Items = nil
	must(t, fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		must(t, err)
		if d.Type().IsRegular() && p != name {
			b := read(t, filepath.Join(dir, p))
			sum := sha256.Sum256(b)
			sums.Files[p] = FileSum{SHA256: hex.EncodeToString(sum[:]), Bytes: int64(len(b))}
		}
		return nil
	}))
	b, err := document(sums)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
}

// entry of a tar that is made by hand.
type entry struct {
	name string
	body string
	kind byte
	link string
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		h := &tar.Header{Typeflag: e.kind, Name: e.name, Size: int64(len(e.body)), Mode: 0o600, Linkname: e.link}
		must(t, w.WriteHeader(h))
		_, err := io.WriteString(w, e.body)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func manifestOf(items string) entry {
	return entry{name: manifestPath, body: `{"version":0,"items":{` + items + `}}`}
}

// hostile are archives that are refused, each with its one error.
func hostile(t testing.TB) map[string]struct {
	bytes []byte
	want  error
} {
	type x = struct {
		bytes []byte
		want  error
	}
	core := entry{name: "m.core.json", body: `{"server_name":"example.org"}`}
	coreItem := `"m.core":{"v":1}`
	events := func(cbor string) []byte {
		return tarOf(t, manifestOf(`"m.events":{"v":1}`), entry{name: "m.events/events.1.cbor", body: cbor})
	}
	whole := read(t, written(t, "a.tar"))
	zeros := make([]byte, 80<<20)
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, err := z.Write(tarOf(t, manifestOf(coreItem), core))
	must(t, err)
	_, err = z.Write(zeros)
	must(t, err)
	must(t, z.Close())
	return map[string]x{
		"absolute path":      {tarOf(t, manifestOf(coreItem), entry{name: "/etc/passwd", body: "x"}), ErrPath},
		"path that climbs":   {tarOf(t, manifestOf(coreItem), entry{name: "m.events/../../x", body: "x"}), ErrPath},
		"path in upper case": {tarOf(t, manifestOf(coreItem), entry{name: "M.core.json", body: "x"}), ErrPath},
		"path m/":            {tarOf(t, manifestOf(coreItem), entry{name: "m/core.json", body: "x"}), ErrPath},
		"symbolic link":      {tarOf(t, manifestOf(coreItem), entry{name: "m.core.json", kind: tar.TypeSymlink, link: "/etc/passwd"}), ErrLink},
		"hard link":          {tarOf(t, manifestOf(coreItem), entry{name: "m.core.json", kind: tar.TypeLink, link: manifestPath}), ErrLink},
		"device":             {tarOf(t, manifestOf(coreItem), entry{name: "m.core.json", kind: tar.TypeChar}), ErrLink},
		"file twice":         {tarOf(t, manifestOf(coreItem), core, core), ErrDuplicate},
		"manifest twice":     {tarOf(t, manifestOf(coreItem), manifestOf(coreItem)), ErrDuplicate},
		"manifest not first": {tarOf(t, core, manifestOf(coreItem)), ErrOrder},
		"no manifest":        {tarOf(t), ErrForm},
		"manifest broken":    {tarOf(t, entry{name: manifestPath, body: "{"}), ErrManifest},
		"version 1":          {tarOf(t, entry{name: manifestPath, body: `{"version":1,"items":{}}`}), ErrVersion},
		"unknown item":       {tarOf(t, manifestOf(coreItem+`,"m.future":{"v":1}`), core), ErrUnknownItem},
		"unknown v":          {tarOf(t, manifestOf(`"m.core":{"v":2}`), core), ErrUnknownItem},
		"unknown layout":     {tarOf(t, manifestOf(`"m.e2e.keys":{"v":1}`)), ErrUnknownItem},
		"file of no item":    {tarOf(t, manifestOf(coreItem), core, entry{name: "org.example.json", body: "x"}), ErrOwner},
		"unlisted item":      {tarOf(t, manifestOf(coreItem), core, entry{name: "m.rooms.cbor", body: "\xa0"}), ErrOwner},
		"wrong order":        {tarOf(t, manifestOf(coreItem+`,"m.rooms":{"v":1}`), entry{name: "m.rooms.cbor", body: "\xa0"}, core), ErrOrder},
		"number missing":     {tarOf(t, manifestOf(`"m.events":{"v":1}`), entry{name: "m.events/events.2.cbor", body: "\xa0"}), ErrOrder},
		"no integrity":       {tarOf(t, manifestOf(coreItem), core), ErrTruncated},
		"item without file":  {tarOf(t, manifestOf(coreItem)), ErrTruncated},
		"cut in a file":      {whole[:len(whole)/2+100], ErrTruncated},
		"cut before a file":  {whole[:512*4], ErrTruncated},
		"something follows":  {append(bytes.Clone(whole), "x"...), ErrTrailing},
		"bomb":               {bomb.Bytes(), ErrBomb},
		"gzip that is none":  {[]byte("\x1f\x8bxxxxxxxxxxxxxxxxxx"), ErrTruncated},
		"zip":                {[]byte("PK\x03\x04" + strings.Repeat("x", 600)), ErrForm},
		"nothing":            {nil, ErrForm},
		"JSON broken":        {tarOf(t, manifestOf(coreItem), entry{name: "m.core.json", body: "[]"}), ErrDocument},
		"deep JSON":          {tarOf(t, manifestOf(coreItem), entry{name: "m.core.json", body: strings.Repeat(`{"a":`, 9999) + "1" + strings.Repeat("}", 9999)}), ErrDocument},
		"CBOR empty":         {events(""), ErrCBOR},
		"CBOR array":         {events("\x80"), ErrCBOR},
		"CBOR huge map":      {events("\xbb\xff\xff\xff\xff\xff\xff\xff\xff"), ErrCBOR},
		"CBOR huge array":    {events("\xa1\x61a\x9b\x00\xff\xff\xff\xff\xff\xff\xff"), ErrCBOR},
		"CBOR huge text":     {events("\xa1\x61a\x81\x7b\x00\x00\x00\xff\xff\xff\xff\xff"), ErrCBOR},
		"CBOR deep":          {events("\xa1\x61a\x81" + strings.Repeat("\x81", 200) + "\x00"), ErrCBOR},
		"CBOR indefinite":    {events("\xbf\xff"), ErrCBOR},
		"CBOR bytes":         {events("\xa1\x61a\x81\x41x"), ErrCBOR},
		"CBOR tag":           {events("\xa1\x61a\x81\xc0\x60"), ErrCBOR},
		"CBOR key twice":     {events("\xa2\x61a\x80\x61a\x80"), ErrCBOR},
		"CBOR keys unsorted": {events("\xa2\x61b\x80\x61a\x80"), ErrCBOR},
		"CBOR inner twice":   {events("\xa1\x61a\x81\xa2\x61a\x00\x61a\x01"), ErrCBOR},
		"CBOR not UTF-8":     {events("\xa1\x61a\x81\xa1\x61a\x61\xff"), ErrCBOR},
		"CBOR follows":       {events("\xa0\x00"), ErrCBOR},
	}
}

func TestHostile(t *testing.T) {
	for name, x := range hostile(t) {
		path := filepath.Join(t.TempDir(), "a")
		must(t, os.WriteFile(path, x.bytes, 0o600))
		if name != "something follows" && name != "bomb" { // Python's tarfile does not look behind a tar
			ask(t, path, false)
		}
		_, err := Verify(t.Context(), path, ReadOptions{})
		if !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		others := []error{ErrForm, ErrEncrypted, ErrPath, ErrLink, ErrDuplicate, ErrBomb, ErrTruncated, ErrTrailing, ErrOrder, ErrOwner, ErrIntegrity, ErrDocument, ErrUnknownItem, ErrCBOR}
		if n := len(slices.DeleteFunc(others, func(e error) bool { return !errors.Is(err, e) })); n > 1 {
			t.Errorf("%s is %d errors at once: %v", name, n, err)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: more than one line: %v", name, err)
		}
	}
}

// verdict of the hostile archives in testdata, for other implementers.
type verdict struct {
	File string `json:"file"`
	What string `json:"what"`
	Why  string `json:"why"` // the sentence of the error
}

// The hostile archives of testdata are those that TestHostile refuses.
func TestHostileVectors(t *testing.T) {
	const dir = "testdata/hostile"
	all := hostile(t)
	var verdicts []verdict
	for _, name := range slices.Sorted(maps.Keys(all)) {
		file := strings.ToLower(strings.NewReplacer(" ", "-", "/", "").Replace(name)) + ".bin"
		verdicts = append(verdicts, verdict{file, name, all[name].want.Error()})
		if *update {
			must(t, os.MkdirAll(dir, 0o755))
			must(t, os.WriteFile(filepath.Join(dir, file), all[name].bytes, 0o644))
		}
		// What gzip makes of zeros may change with the compiler.
		if got := read(t, filepath.Join(dir, file)); name != "bomb" && !bytes.Equal(got, all[name].bytes) {
			t.Errorf("%s is not what TestHostile refuses (-update)", file)
		}
	}
	b, err := json.MarshalIndent(verdicts, "", " ")
	must(t, err)
	if *update {
		must(t, os.WriteFile(filepath.Join(dir, "verdicts.json"), append(b, '\n'), 0o644))
	}
	if !bytes.Equal(read(t, filepath.Join(dir, "verdicts.json")), append(b, '\n')) {
		t.Error("verdicts.json says something else")
	}
}

func TestHostileDirectories(t *testing.T) {
	for name, x := range map[string]struct {
		change func(dir string)
		want   error
	}{
		"link":      {func(d string) { must(t, os.Symlink("/etc/passwd", filepath.Join(d, "m.users", "users.2.cbor"))) }, ErrLink},
		"directory": {func(d string) { must(t, os.Symlink("/etc", filepath.Join(d, "m.other"))) }, ErrLink},
		"altered": {func(d string) {
			p := filepath.Join(d, "m.core.json")
			must(t, os.WriteFile(p, bytes.Replace(read(t, p), []byte("example"), []byte("exbmple"), 1), 0o600))
		}, ErrIntegrity},
		"added": {func(d string) {
			must(t, os.WriteFile(filepath.Join(d, "m.users", "users.2.cbor"), []byte("\xa0"), 0o600))
		}, ErrIntegrity},
		"removed": {func(d string) { must(t, os.Remove(filepath.Join(d, "m.users", "users.1.cbor"))) }, ErrTruncated},
		"foreign": {func(d string) { must(t, os.WriteFile(filepath.Join(d, "readme"), nil, 0o600)) }, ErrOwner},
		"upper":   {func(d string) { must(t, os.WriteFile(filepath.Join(d, "README"), nil, 0o600)) }, ErrPath},
	} {
		dir := written(t, "dir")
		x.change(dir)
		ask(t, dir, false)
		if _, err := Verify(t.Context(), dir, ReadOptions{}); !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestM2_UnknownItemsAbortBeforeTheFirstElement(t *testing.T) {
	sample := func(items string) string {
		dir := written(t, "dir")
		p := filepath.Join(dir, manifestPath)
		must(t, os.WriteFile(p, bytes.Replace(read(t, p), []byte(`"items":{`), []byte(`"items":{`+items), 1), 0o600))
		must(t, os.WriteFile(filepath.Join(dir, "m.future.json"), []byte("anything"), 0o600))
		must(t, os.MkdirAll(filepath.Join(dir, "org.example"), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, "org.example", "thing.json"), []byte("anything"), 0o600))
		reseal(t, dir)
		return dir
	}
	dir := sample(`"m.future":{"v":1},"org.example.thing":{"v":"x"},`)
	_, err := Read(t.Context(), dir, ReadOptions{}, func(e Element) error {
		t.Errorf("%s was handed out", e.Item)
		return nil
	})
	if !errors.Is(err, ErrUnknownItem) || !strings.Contains(err.Error(), "m.future") {
		t.Errorf("%v", err)
	}
	if _, err := Read(t.Context(), dir, ReadOptions{AcceptUnknown: []string{"m.futur"}}, nil); !errors.Is(err, ErrUnknownItem) {
		t.Errorf("another name was accepted: %v", err)
	}
	ask(t, dir, false)
	out, err := Read(t.Context(), dir, ReadOptions{AcceptUnknown: []string{"m.future"}}, nil)
	must(t, err)
	if !slices.Equal(out.Skipped, []string{"m.future", "org.example.thing"}) {
		t.Errorf("skipped: %v", out.Skipped)
	}
}

// An archive of the MSC's text alone, as another implementation would write it.
func TestArchiveOfTheMSCAlone(t *testing.T) {
	w := newWorld(t, "10", "12")
	c := w.contents()
	rooms, ev := builder{}, builder{}
	for r, err := range c.Rooms {
		must(t, err)
		raw, err := encode(r)
		must(t, err)
		must(t, rooms.set(raw, r.ID))
	}
	for _, e := range w.events {
		tree, err := encode(w.parse(mustTree(t, e.JSON)))
		must(t, err)
		must(t, ev.add(tree, e.Room))
	}
	path := filepath.Join(t.TempDir(), "a.tar")
	must(t, os.WriteFile(path, tarOf(t, manifestOf(`"m.core":{"v":1},"m.rooms":{"v":1},"m.events":{"v":1}`), entry{name: "m.core.json", body: `{"server_name":"example.org"}`},
		entry{name: "m.rooms.cbor", body: string(rooms.encode())}, entry{name: "m.events/events.1.cbor", body: string(ev.encode())}), 0o600))
	v := mustVerify(t, path, ReadOptions{AllowIncomplete: true})
	if v.Complete || v.Events != 8 || v.Archive != nil {
		t.Errorf("%+v", v)
	}
}

func mustTree(t testing.TB, text []byte) map[string]any {
	var m map[string]any
	must(t, json.Unmarshal(text, &m))
	return m
}
