//go:build !goolm

package synapseproof

import (
	"testing"

	"lifeboat.im/lifeboat/internal/testpg"
)

// TestEncryptionAfterRollback needs the pure-Go olm, which its library leaves out
// of a build without this tag.
func TestEncryptionAfterRollback(t *testing.T) {
	testpg.Need(t, "the build tag goolm (make test gives it)", false, "tools")
}

// TestEncryptionThroughAnArchive needs it, too.
func TestEncryptionThroughAnArchive(t *testing.T) {
	testpg.Need(t, "the build tag goolm (make test gives it)", false, "tools")
}
