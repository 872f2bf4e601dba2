package httpapi

import (
	"bytes"
	"encoding/json"
)

// fields are members that an older version of the API had and the types of the
// newest one do not know. A value of type fields is merged into the object of
// that name.
type fields map[string]any

// extended is a value that is sent with more members. What the value has
// itself and is not null stays as it is.
type extended struct {
	value any
	more  fields
}

// MarshalJSON costs a second pass, only where there is something to add.
func (e extended) MarshalJSON() ([]byte, error) {
	data, err := marshal(e.value)
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
		sub, isObject := add.(fields)
		switch {
		case isObject && !missing:
			add = extended{have, sub}
		case !missing:
			continue
		}
		if object[name], err = marshal(add); err != nil {
			return nil, err
		}
	}
	return marshal(object)
}

// marshal is json.Marshal that leaves <, > and & as they are.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
