package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/fs"
	"lifeboat.im/lifeboat/chunkstore/s3"
	"lifeboat.im/lifeboat/internal/s3server"
	"lifeboat.im/lifeboat/internal/testpg"
)

// s3Commands are those of scripts about object storage:
//
//	s3server       starts a server behind a bad line: $S3 is a repository's URL, $NOSUCH one in no bucket, s3.id and s3.secret its keys; $TWIN is an empty database
//	copyrepo DIR   copies every object of $S3 into a folder
//	equaldumps     wants pg_dump to print the same of $RESTORED and $TWIN
//	carelessline   $CARELESS is a repository's URL behind a line that ignores If-None-Match
func s3Commands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"s3server": s3ServerCommand, "copyrepo": copyRepoCommand, "equaldumps": equalDumpsCommand,
		"carelessline": carelessLineCommand,
	}
}

func needServer(ts *testscript.TestScript, kind s3server.Kind) *s3server.Server {
	d := scriptDatabases(ts)
	root, err := testpg.Repository()
	ts.Check(err)
	srv, err := s3server.Start(context.Background(), root, kind, d.t.TempDir())
	testpg.Need(d.t, string(kind), !errors.Is(err, s3server.ErrMissing), "tools")
	ts.Check(err)
	ts.Defer(srv.Stop)
	return srv
}

func s3ServerCommand(ts *testscript.TestScript, _ bool, _ []string) {
	srv := needServer(ts, s3server.VersityGW)
	line, err := s3server.NewProxy(srv.Addr)
	ts.Check(err)
	ts.Defer(line.Close)
	line.Plan(badLine())
	ts.Setenv("S3", s3server.URL(line.Addr, "matrix/one"))
	ts.Setenv("NOSUCH", "s3+http://"+srv.Addr+"/nosuch")
	for name, f := range map[string]struct {
		text string
		perm os.FileMode
	}{
		"s3.id": {s3server.AccessKey, 0o600}, "s3.secret": {s3server.SecretKey + "\n", 0o600},
		"wrong": {"wrong", 0o600}, "open": {s3server.SecretKey, 0o644},
	} {
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(f.text), f.perm))
	}
	d := scriptDatabases(ts)
	twin := d.restored.Cluster.Database(d.t)
	twin.Exec(d.t, "ALTER DATABASE "+twin.Name+" OWNER TO "+d.role, "ALTER SCHEMA public OWNER TO "+d.role)
	ts.Setenv("TWIN", twin.As(d.role))
}

// badLine treats every ninth request badly, each time in another way.
func badLine() func(*http.Request) s3server.Do {
	faults := []s3server.Do{
		{Fault: s3server.LostReply},
		{Fault: s3server.Refuse, Status: 503, Code: "SlowDown"},
		{Fault: s3server.CutReply},
		{Fault: s3server.RefuseAfter, Status: 503, Code: "SlowDown"},
		{Fault: s3server.ErrorInside},
		{Fault: s3server.CutRequest},
		{Fault: s3server.Twice},
	}
	var n atomic.Int64
	return func(*http.Request) s3server.Do {
		i := n.Add(1)
		if i%9 != 0 {
			return s3server.Do{}
		}
		return faults[i/9%int64(len(faults))]
	}
}

func openScriptStore(ts *testscript.TestScript) *s3.Store {
	at, err := s3.ParseURL(ts.Getenv("S3"))
	ts.Check(err)
	s, err := s3.Open(s3.Options{Location: at, AccessKey: s3server.AccessKey, SecretKey: s3server.SecretKey})
	ts.Check(err)
	return s
}

func copyRepoCommand(ts *testscript.TestScript, _ bool, args []string) {
	from := openScriptStore(ts)
	to, err := fs.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	ctx := context.Background()
	ts.Check(from.List(ctx, "", func(i chunkstore.Info) error {
		data, err := from.Get(ctx, i.Key)
		if err == nil {
			err = to.Create(ctx, i.Key, data)
		}
		return err
	}))
	ts.Check(to.Close())
}

// random are the lines of pg_dump that hold a number drawn for each dump.
var random = regexp.MustCompile(`(?m)^\\(un)?restrict .*\n`)

func equalDumpsCommand(ts *testscript.TestScript, _ bool, _ []string) {
	dump := func(dsn string) string {
		out, err := exec.Command(ts.Getenv("PGBIN")+"/pg_dump", dsn).CombinedOutput()
		if err != nil {
			ts.Fatalf("pg_dump: %v\n%s", err, out)
		}
		return random.ReplaceAllString(string(out), "")
	}
	one, two := dump(ts.Getenv("RESTORED")), dump(ts.Getenv("TWIN"))
	if !strings.Contains(one, "COPY public.accounts") || one != two {
		ts.Fatalf("the dumps differ, or are empty: %d and %d bytes", len(one), len(two))
	}
}

func carelessLineCommand(ts *testscript.TestScript, _ bool, _ []string) {
	// The header is signed: behind the line is a server that does not look at signatures.
	p, err := s3server.NewProxy(needServer(ts, s3server.GoFakeS3).Addr)
	ts.Check(err)
	p.Plan(func(r *http.Request) s3server.Do {
		r.Header.Del("If-None-Match")
		return s3server.Do{}
	})
	ts.Defer(p.Close)
	ts.Setenv("CARELESS", s3server.URL(p.Addr, "x"))
}

func TestCost(t *testing.T) {
	// reference: 2.63 million PUTs a month at a second, $13.14.
	if c := costOf(1e12, 1e9); c.Storage < 22.9 || c.Storage > 23.1 || c.Requests < 15.1 || c.Requests > 15.4 {
		t.Errorf("a terabyte at rpo 1s: %+v, want $23.00 and $13.14", c)
	}
}
