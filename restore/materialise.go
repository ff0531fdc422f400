package restore

import (
	"context"
	"errors"

	"lifeboat.im/lifeboat/history"
)

// Materialise makes the database.
func (p *Plan) Materialise(ctx context.Context, dsn string, s *history.Secrets, pr Progress) (*Report, error) {
	return nil, errors.New("restore: not built yet")
}
