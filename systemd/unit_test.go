// Package systemd holds the unit and the user of the service, and their test.
package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/unit"
)

const (
	serviceFile  = "lifeboat.service"
	pruneFile    = "lifeboat-prune.service"
	usersFile    = "lifeboat.sysusers.conf"
	runbooksFile = "../docs/operations.md"
	// exposure is the most that `systemd-analyze security` may find, in tenths. What
	// is left is that it talks to a network.
	exposure = 12
)

// directives are the ones that the unit and the drop-ins of the documentation use,
// each looked up in systemd.unit(5), systemd.service(5), systemd.exec(5),
// systemd.kill(5) or systemd.resource-control(5); all are known to systemd 247, the
// first that has LoadCredential=. true: may be given more than once.
func directives() map[string]map[string]bool {
	return map[string]map[string]bool{
		"Unit": {
			"Description": false, "After": false, "Wants": false, "StartLimitIntervalSec": false, "RequiresMountsFor": false,
		},
		"Service": {
			"Type": false, "ExecStart": false, "User": false, "Group": false, "SupplementaryGroups": false, "UMask": false,
			"ConfigurationDirectory": false, "StateDirectory": false, "StateDirectoryMode": false, "LoadCredential": true,
			"TimeoutStartSec": false, "WatchdogSec": false, "TimeoutStopSec": false, "KillMode": false, "Restart": false, "RestartSec": false, "RestartPreventExitStatus": false,
			"Nice": false, "CPUWeight": false, "IOWeight": false, "IOSchedulingClass": false, "IOSchedulingPriority": false, "MemoryMax": false, "MemorySwapMax": false,
			"LimitCORE": false, "LimitNOFILE": false, "OOMScoreAdjust": false, "TasksMax": false,
			"NoNewPrivileges": false, "CapabilityBoundingSet": false, "AmbientCapabilities": false, "ProtectSystem": false, "ProtectHome": false,
			"ReadWritePaths": true,
			"PrivateTmp":     false, "PrivateDevices": false, "DevicePolicy": false, "PrivateMounts": false, "PrivateUsers": false, "ProtectClock": false, "ProtectControlGroups": false,
			"ProtectHostname": false, "ProtectKernelLogs": false, "ProtectKernelModules": false, "ProtectKernelTunables": false, "ProtectProc": false, "ProcSubset": false,
			"RemoveIPC": false, "RestrictAddressFamilies": false, "RestrictNamespaces": false, "RestrictRealtime": false, "RestrictSUIDSGID": false, "LockPersonality": false,
			"MemoryDenyWriteExecute": false, "SystemCallArchitectures": false, "SystemCallFilter": true, "SystemCallErrorNumber": false,
		},
		"Install": {"WantedBy": false},
		"Timer":   {"OnCalendar": false, "RandomizedDelaySec": false, "Persistent": false},
	}
}

// promised are the values that docs/operations.md and the program count on; ""
// stands for an empty list.
func promised() map[string]string {
	return map[string]string{
		"Type": "notify", "ExecStart": "/usr/local/bin/lifeboat run", "Restart": "on-failure", "RestartPreventExitStatus": "2 4 6 7 11 12",
		"User": "lifeboat", "Group": "lifeboat", "UMask": "0077", "StateDirectory": "lifeboat", "StateDirectoryMode": "0700", "ConfigurationDirectory": "lifeboat",
		"NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "AmbientCapabilities": "", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes",
		"PrivateDevices": "yes", "PrivateUsers": "yes", "ProtectKernelLogs": "yes", "ProtectKernelModules": "yes", "ProtectKernelTunables": "yes",
		"ProtectControlGroups": "yes", "ProtectClock": "yes", "ProtectProc": "invisible", "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
		"RestrictNamespaces": "yes", "RestrictSUIDSGID": "yes", "LockPersonality": "yes", "MemoryDenyWriteExecute": "yes", "SystemCallArchitectures": "native",
		"LimitCORE": "0", "MemorySwapMax": "0", "StartLimitIntervalSec": "0", "WantedBy": "multi-user.target",
	}
}

// parse reads a unit and gives every directive's values, "Section/Name" first.
func parse(t *testing.T, what, text string) map[string][]string {
	t.Helper()
	options, err := unit.DeserializeOptions(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	known, out := directives(), map[string][]string{}
	for _, o := range options {
		many, ok := known[o.Section][o.Name]
		if !ok {
			t.Errorf("%s: [%s] %s= is not a directive that this test knows: systemd ignores a misspelt one, and what it promises with it", what, o.Section, o.Name)
		}
		key := o.Section + "/" + o.Name
		if len(out[key]) > 0 && !many {
			t.Errorf("%s: %s= stands twice", what, o.Name)
		}
		out[key] = append(out[key], o.Value)
	}
	return out
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// value gives the first value of a directive, whose name stands in one section only.
func value(t *testing.T, have map[string][]string, name string) string {
	t.Helper()
	for _, section := range []string{"Service", "Unit", "Install"} {
		if v := have[section+"/"+name]; len(v) > 0 {
			return v[0]
		}
	}
	t.Errorf("%s= is missing", name)
	return ""
}

// span reads a time of systemd.time(7) as the unit writes them.
func span(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(strings.Replace(s, "min", "m", 1))
	if err != nil {
		t.Errorf("time span %q: %v", s, err)
	}
	return d
}

// TestUnit holds the unit against what it promises, without systemd.
func TestUnit(t *testing.T) {
	have := parse(t, serviceFile, read(t, serviceFile))
	for name, want := range promised() {
		if v := value(t, have, name); v != want {
			t.Errorf("%s=%s, want %s", name, v, want)
		}
	}
	if f := strings.Join(have["Service/SystemCallFilter"], "; "); f != "@system-service; ~@privileged @resources" {
		t.Errorf("SystemCallFilter= %s", f)
	}
	if want := []string{"source:lifeboat.source", "source_password:lifeboat.source_password", "s3_access_key:lifeboat.s3_access_key", "s3_secret_key:lifeboat.s3_secret_key"}; !slices.Equal(have["Service/LoadCredential"], want) {
		t.Errorf("LoadCredential= %q, want %q: cmd/lifeboat reads these", have["Service/LoadCredential"], want)
	}
	// agent.Run drains for 30 s and gives up; the stream is cut as late as that again.
	if d := span(t, value(t, have, "TimeoutStopSec")); d < 65*time.Second {
		t.Errorf("TimeoutStopSec=%v cuts off the last flush", d)
	}
	// A silent server is noticed after 5 minutes by the agent itself (cdc.StreamOptions).
	if d := span(t, value(t, have, "WatchdogSec")); d < 6*time.Minute {
		t.Errorf("WatchdogSec=%v kills an agent that is about to end by itself", d)
	}
	// Below cdc's wait for the slot (2 minutes) a takeover would never come to an end.
	if d := span(t, value(t, have, "TimeoutStartSec")); d < 5*time.Minute {
		t.Errorf("TimeoutStartSec=%v is shorter than a takeover", d)
	}
}

// TestPruneUnit: the prune runs as somebody else than the agent, with its own secrets, and
// the timer starts it.
func TestPruneUnit(t *testing.T) {
	have, agent := parse(t, pruneFile, read(t, pruneFile)), parse(t, serviceFile, read(t, serviceFile))
	if value(t, have, "User") == value(t, agent, "User") || value(t, have, "Type") != "oneshot" {
		t.Errorf("%s runs as the agent", pruneFile)
	}
	if want := "/usr/local/bin/lifeboat prune --apply"; value(t, have, "ExecStart") != want {
		t.Errorf("ExecStart is not %s", want)
	}
	if l := have["Service/LoadCredential"]; !slices.Contains(l, "maintenance:lifeboat.maintenance") || slices.ContainsFunc(l, func(s string) bool { return strings.HasPrefix(s, "source") }) {
		t.Errorf("LoadCredential= %q", l)
	}
	timer := strings.TrimSuffix(pruneFile, ".service") + ".timer"
	if parse(t, timer, read(t, timer))["Timer/OnCalendar"] == nil {
		t.Errorf("%s never starts", timer)
	}
}

// TestExitCodes: the codes after which nothing is restarted are documented ones, and
// none of those that a restart mends.
func TestExitCodes(t *testing.T) {
	have := parse(t, serviceFile, read(t, serviceFile))
	table := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| (.*) \|$`).FindAllStringSubmatch(read(t, runbooksFile), -1) {
		table[m[1]] = m[2]
	}
	for code := range strings.FieldsSeq(value(t, have, "RestartPreventExitStatus")) {
		if table[code] == "" {
			t.Errorf("RestartPreventExitStatus: %s is not in the table of exit codes", code)
		}
		if slices.Contains([]string{"0", "1", "10", "75", "130"}, code) {
			t.Errorf("RestartPreventExitStatus: %s (%s) goes away by itself, or may", code, table[code])
		}
	}
}

// TestUser: the unit's user is the one that sysusers makes.
func TestUser(t *testing.T) {
	have := parse(t, serviceFile, read(t, serviceFile))
	user := value(t, have, "User")
	want := fmt.Sprintf(`(?m)^u %s - "[^"]+" /var/lib/%s$`, user, value(t, have, "StateDirectory"))
	if !regexp.MustCompile(want).MatchString(read(t, usersFile)) {
		t.Errorf("%s makes no user %s whose home is the state directory", usersFile, user)
	}
}

// TestDropIns: what docs/operations.md tells to write into drop-ins is known, and
// loosens nothing else.
func TestDropIns(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```ini\n(.*?)```").FindAllStringSubmatch(read(t, runbooksFile), -1)
	if len(blocks) < 2 {
		t.Fatalf("%d blocks of drop-ins in %s, want at least the local repository's and the homeserver's", len(blocks), runbooksFile)
	}
	for i, b := range blocks {
		what := fmt.Sprintf("%s, drop-in %d", runbooksFile, i+1)
		for key := range parse(t, what, b[1]) {
			_, name, _ := strings.Cut(key, "/")
			if _, fixed := promised()[name]; fixed {
				t.Errorf("%s takes back the promise of %s=", what, name)
			}
		}
	}
}

// TestAnalyze asks systemd itself, where it is: no package of a registry carries
// it, so a machine without it is held to the other tests alone.
func TestAnalyze(t *testing.T) {
	program, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not here: the unit is checked by our own reading of it only (sudo apt-get install systemd)")
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// verify wants the program to exist.
	file := filepath.Join(t.TempDir(), serviceFile)
	text := strings.Replace(read(t, serviceFile), "/usr/local/bin/lifeboat", self, 1)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	// It warns of what it does not know and still ends with 0.
	out, err := exec.Command(program, "verify", "--man=no", file).CombinedOutput()
	if err != nil || strings.Contains(string(out), file) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err = exec.Command(program, "security", "--offline=true", "--no-pager", "--threshold="+strconv.Itoa(exposure), file).CombinedOutput()
	switch {
	case strings.Contains(string(out), "unrecognized option"):
		t.Logf("this systemd-analyze is older than 250 and rates no files: %s", out)
	case err != nil:
		t.Errorf("systemd-analyze security: more than %d tenths are exposed: %v\n%s", exposure, err, out)
	}
}
