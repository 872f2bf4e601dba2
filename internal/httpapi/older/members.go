package older

import (
	"bytes"
	"encoding/json"
)

// Members are some that the types of the newest version do not know: an older
// one had them, or they are ours. A value of type Members is merged into the
// object of that name.
type Members map[string]any

// With is a value that is sent with more members. What the value has itself and
// is not null stays as it is.
func With(value any, more Members) any { return extended{value, more} }

type extended struct {
	value any
	more  Members
}

// MarshalJSON costs a second pass, only where there is something to add.
func (e extended) MarshalJSON() ([]byte, error) {
	data, err := Marshal(e.value)
	if err != nil || len(e.more) == 0 {
		return data, err
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil {
		return nil, err
	}
	if object == nil {
		return data, nil // null
	}
	for name, add := range e.more {
		have, ok := object[name]
		missing := !ok || bytes.Equal(have, []byte("null"))
		sub, isObject := add.(Members)
		switch {
		case isObject && !missing:
			add = extended{have, sub}
		case !missing:
			continue
		}
		if object[name], err = Marshal(add); err != nil {
			return nil, err
		}
	}
	return Marshal(object)
}

// Marshal is json.Marshal that leaves <, > and & as they are.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
