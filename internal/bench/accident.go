package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"lifeboat.im/lifeboat/internal/homeserver"
)

// firstRead is the line in which the demo says its figure.
var firstRead = regexp.MustCompile(`(\d+) seconds from the accident to the first message read`)

// accident tells the demo's story of a homeserver once, and takes its figure: from
// the deletion of a room with purge to the first message read in the restored one.
func (b *bench) accident(ctx context.Context) error {
	if _, err := homeserver.Find("."); err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	program := filepath.Join(b.dir, "demo")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "./internal/demo").CombinedOutput(); err != nil {
		return fmt.Errorf("build the demo: %w\n%s", err, out)
	}
	var seconds string // written before the child's done is closed
	c, err := b.start("demo", nil, func(line string) {
		if m := firstRead.FindStringSubmatch(line); m != nil {
			seconds = m[1]
		}
	}, program, "-dir", filepath.Join(b.dir, "story"), "-lifeboat", b.lifeboat, "-pg", b.pg, "-tools", root, "-seconds", fmt.Sprint(b.seconds))
	if err != nil {
		return err
	}
	if _, err := b.wait(ctx, c); err != nil {
		return err
	}
	if seconds == "" {
		return errors.New("the demo ended without its figure")
	}
	r := &result{name: "accident → first message read", plain: seconds + " s, once (make demo; no target)"}
	b.results = append(b.results, r)
	fmt.Printf("   %s: %s\n", r.name, r.plain)
	return nil
}
