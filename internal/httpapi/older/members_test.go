package older

import (
	"encoding/json"
	"testing"
)

func TestWithKeepsWhatIsThere(t *testing.T) {
	got, err := json.Marshal(With(map[string]any{"a": 1, "n": nil, "o": map[string]any{"x": 1}}, Members{
		"a": 2, "b": 3, "n": 4, "o": Members{"x": 5, "y": 6}, "new": Members{"z": 7}}))
	if want := `{"a":1,"b":3,"n":4,"new":{"z":7},"o":{"x":1,"y":6}}`; string(got) != want || err != nil {
		t.Errorf("%s %v", got, err)
	}
	if got, _ := json.Marshal(With(nil, Members{"a": 1})); string(got) != "null" {
		t.Errorf("%s", got)
	}
}
