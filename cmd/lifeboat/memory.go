package main

import (
	"os"
	"runtime/debug"
)

// memoryLimit is the heap from which the garbage collector works harder: the
// agent and a restore stay below 256 MiB with values up to 16 MiB. It is no bound:
// a row of 200 MB still gets what it needs.
const memoryLimit = 192 << 20

// boundMemory sets the limit unless the user has chosen one (GOMEMLIMIT).
func boundMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}
