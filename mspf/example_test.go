package mspf_test

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"

	"lifeboat.im/lifeboat/mspf"
)

// A homeserver that exports gives iterators over its rooms and events, in the order
// that the archive is to have.
func ExampleWrite() {
	rooms := func(yield func(mspf.Room, error) bool) {
		yield(mspf.Room{ID: "!room:example.org", Version: "2"}, nil)
	}
	events := func(yield func(mspf.Event, error) bool) {
		yield(mspf.Event{
			Room: "!room:example.org",
			JSON: []byte(`{"type":"m.room.create","state_key":"","event_id":"$1:example.org","room_id":"!room:example.org","sender":"@a:example.org","content":{}}`),
			Meta: mspf.EventMeta{EventID: "$1:example.org"},
		}, nil)
	}
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	sum, err := mspf.Write(context.Background(), filepath.Join(dir, "server.tar.zst"), mspf.Contents{
		Core:    mspf.Core{ServerName: "example.org"},
		Archive: mspf.Archive{Tool: "example", ServerName: "example.org", Redaction: "none", Media: "none"},
		Rooms:   iter.Seq2[mspf.Room, error](rooms),
		Events:  iter.Seq2[mspf.Event, error](events),
		Losses: func() []mspf.Loss {
			return []mspf.Loss{{Item: "m.users", Code: "users", State: mspf.Unsupported, Count: 12, Reason: "not written yet"}}
		},
	}, mspf.WriteOptions{Plaintext: true})
	fmt.Println(err, sum.Integrity.Items["m.events"].Elements, sum.Report.Complete)
	// Output: <nil> 1 false
}

// An importer verifies first, and then gets one element after the other.
func ExampleRead() {
	const archive = "testdata/example"
	v, err := mspf.Verify(context.Background(), archive, mspf.ReadOptions{})
	if err != nil || !v.OK() {
		fmt.Println(err, v)
		return
	}
	_, err = mspf.Read(context.Background(), archive, mspf.ReadOptions{}, func(e mspf.Element) error {
		if e.Item != "m.users" {
			return nil
		}
		var u mspf.User
		if err := e.Decode(&u); err != nil {
			return err
		}
		fmt.Println(e.Key, u.CreatedAt, len(u.Devices))
		return nil
	})
	fmt.Println(err)
	// Output:
	// @a:example.org 1600000000 2
	// @b:example.org 1600000000 2
	// <nil>
}
