package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// formatVersion is the version of the objects that this program writes, and the only
// one that it reads (docs/format.md).
const formatVersion = 1

// buildVersion is the module's version; "devel" when it was built from a working copy.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of the program and of the format it writes",
		Example: "  lifeboat version --json", Args: noArgs(),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Commit  string `json:"commit,omitempty"`
				Format  int    `json:"format"`
				Go      string `json:"go"`
			}{Version: buildVersion(), Format: formatVersion, Go: runtime.Version()}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v.Commit = s.Value
					}
				}
			}
			if done, err := a.printJSON(v); done {
				return err
			}
			a.fact("lifeboat %s (format %d, %s)", v.Version, v.Format, v.Go)
			return nil
		},
	}
}
