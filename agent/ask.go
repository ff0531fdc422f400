package agent

import (
	"context"

	"lifeboat.im/lifeboat/cdc"
)

// Ask puts questions to the source, each in a read-only transaction, and gives the
// rows of each as text. It needs neither attach nor a repository.
func Ask(ctx context.Context, o SourceOptions, questions ...string) ([][][]string, error) {
	src, err := cdc.Connect(ctx, cdc.Config{DSN: o.DSN})
	if err != nil {
		return nil, err
	}
	defer src.Close(ctx)
	answers := make([][][]string, len(questions))
	for i, q := range questions {
		if answers[i], err = src.Ask(ctx, q); err != nil {
			return nil, err
		}
	}
	return answers, nil
}
