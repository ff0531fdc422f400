package event_test

import (
	"errors"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/mspf/event"
)

// What servers add to an event is taken off its text; every other byte stays.
func TestStripText(t *testing.T) {
	deep := strings.Repeat("[", 300) + strings.Repeat("]", 300)
	for text, want := range map[string]string{
		`{}`:                           `{}`,
		`{"a":1.0}`:                    `{"a":1.0}`,
		` { "a" : 1e3 , "b":"}" } `:    `{"a" : 1e3,"b":"}"}`,
		`{"unsigned":{"x":[{}, "]"]}}`: `{}`,
		`{"unsigned":1,"a":{"unsigned":2},"age_ts":3,"b":[1,2]}`: `{"a":{"unsigned":2},"b":[1,2]}`,
		`{"a":null,"\u0075nsigned":{},"unsigned":true}`:          `{"a":null}`,
		`{"destinations":[],"a":` + deep + `,"outlier":true}`:    `{"a":` + deep + `}`,
	} {
		got, err := event.StripText([]byte(text))
		if err != nil || string(got) != want {
			t.Errorf("%.60s gives %.60s, %v", text, got, err)
		}
	}
	for _, text := range []string{``, `[]`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":[1}`, `{"a":1,}`, `{"a" 1}`, `{1:2}`, `{"a":"`} {
		if got, err := event.StripText([]byte(text)); !errors.Is(err, event.ErrJSON) {
			t.Errorf("%s gives %s, %v", text, got, err)
		}
	}
}
