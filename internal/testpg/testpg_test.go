package testpg

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

// A server of each version starts, takes databases with slots and prepared
// transactions, survives a crash, and its databases go with the test.
func TestCluster(t *testing.T) {
	for _, major := range []int{Newest, Oldest} {
		c := Start(t, major, map[string]string{"max_wal_senders": "7"})
		var name string
		t.Run("database", func(t *testing.T) {
			d := c.Database(t)
			name = d.Name
			d.Exec(t, "CREATE TABLE a (i int primary key, v text)", "INSERT INTO a VALUES (1, NULL)")
			d.Exec(t, "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
			d.Exec(t, "BEGIN; INSERT INTO a VALUES (2, 'x'); PREPARE TRANSACTION 'p'")
			c.Kill(t)
			c.Restart(t, "fast")
			if got := d.Query(t, "SELECT i, v FROM a"); len(got) != 1 || got[0][1] != Null {
				t.Errorf("after a crash: %q", got)
			}
			c.SetConf(t, "work_mem", "7MB")
			c.Role(t, "writer", "REPLICATION")
			d.Exec(t, "CREATE SCHEMA s AUTHORIZATION writer")
			var s, w string
			conn := Connect(t, d.As("writer"))
			if err := conn.QueryRow(t.Context(), "SELECT current_user, current_setting('work_mem')").Scan(&s, &w); err != nil || s != "writer" || w != "7MB" {
				t.Errorf("as writer: %q %q %v", s, w, err)
			}
		})
		if got := c.Query(t, "SELECT count(*) FROM pg_database WHERE datname = "+quote(name)); got[0][0] != "0" {
			t.Errorf("the database outlives its test")
		}
		if got := c.Query(t, "SHOW max_wal_senders"); got[0][0] != "7" {
			t.Errorf("max_wal_senders = %q", got)
		}
	}
}

func TestSharedIsOne(t *testing.T) {
	a, b := Shared(t, Newest), Shared(t, Newest)
	if a != b {
		t.Error("two shared clusters")
	}
	Run(t, Bin(t, Newest, "pg_dump"), "--schema-only", a.DSN("postgres"))
}

// However a test process ends, its servers end with it, and the next process
// removes what it left on disk.
func TestServersEndWithTheProcess(t *testing.T) {
	if os.Getenv("TESTPG_CHILD") != "" {
		c := Start(t, Newest, nil)
		fmt.Printf("server %d %s\n", c.proc.cmd.Process.Pid, state.root)
		<-t.Context().Done() // until the parent kills us
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestServersEndWithTheProcess$", "-test.v")
		cmd.Env = append(os.Environ(), "TESTPG_CHILD=1")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var pid int
		var root string
		lines := bufio.NewScanner(out)
		for pid == 0 && lines.Scan() {
			if f := strings.Fields(lines.Text()); len(f) == 3 && f[0] == "server" {
				pid, _ = strconv.Atoi(f[1])
				root = f[2]
			} else if strings.Contains(lines.Text(), "SKIP") {
				_ = cmd.Wait()
				Need(t, "PostgreSQL", false, "tools")
			}
		}
		if pid == 0 {
			t.Fatal("no server in the child")
		}
		_ = cmd.Process.Signal(s)
		_ = cmd.Wait()
		WaitFor(t, 2*time.Minute, "the server to end", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH || zombie(pid) })
		sweep()
		if _, err := os.Stat(root); err == nil {
			t.Errorf("%s is still there", root)
		}
	}
}

// zombie reports a process that has ended and waits for somebody to ask: in a
// container whose first process does not.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, ok := strings.Cut(string(b), ") ")
	return err != nil || ok && strings.HasPrefix(after, "Z")
}
