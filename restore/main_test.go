package restore

import (
	"testing"

	"lifeboat.im/lifeboat/internal/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }
