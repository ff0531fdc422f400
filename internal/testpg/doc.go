// Package testpg gives tests real PostgreSQL servers, the oracle that is not our
// code (physical recovery to a position, compared table by table) and a random
// load to run against both.
//
// A test package that uses it calls [Main] from its TestMain. Programs come from
// .tools at the root of the repository (make tools); a test that lacks them skips
// and names that target, and fails instead when LIFEBOAT_REQUIRE=all.
//
// Servers run as an unprivileged user, because PostgreSQL refuses root, below one
// folder in os.TempDir. They end with the test process however it ends: by
// [Main], or by the parent-death signal when it is killed.
package testpg
