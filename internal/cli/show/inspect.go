// Package show owns how answers of the engine are printed: inspect output,
// custom templates and the help of --format.
package show

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/template"

	"github.com/docker/cli/templates"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// Help texts of --format.
const (
	FormatHelp = "Format of the output:\n" +
		"'table':            columns with headers (default)\n" +
		"'table TEMPLATE':   columns by a Go template\n" +
		"'json':             JSON\n" +
		"'TEMPLATE':         text by a Go template"
	InspectHelp = "Format of the output:\n" +
		"'json':             JSON\n" +
		"'TEMPLATE':         text by a Go template"
)

// Get fetches one object: the decoded value, and the engine's own bytes,
// which may hold fields that this client does not know.
type Get func(ref string) (typed any, raw []byte, err error)

// Inspect prints every object that could be fetched, then returns what went
// wrong with the others, joined.
func Inspect(out io.Writer, refs []string, format string, get Get) error {
	var tmpl *template.Template
	if format != "" && format != "json" {
		t, err := templates.Parse(format)
		if err != nil {
			return &shell.StatusError{Code: 64, Message: fmt.Sprintf("template parsing error: %v", err)}
		}
		tmpl = t
	}
	var list []json.RawMessage
	var text bytes.Buffer
	var errs []error
	for _, ref := range refs {
		typed, raw, err := get(ref)
		if err == nil && tmpl != nil {
			err = execute(&text, tmpl, typed, raw)
		}
		if shell.TooNew(err) != "" {
			return err // everything is asked again in the engine's version
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, raw)
	}
	var err error
	switch {
	case tmpl != nil:
		if text.Len() == 0 {
			text.WriteByte('\n')
		}
		_, err = text.WriteTo(out)
	default:
		err = writeList(out, list, format == "json")
	}
	return errors.Join(append(errs, err)...)
}

// execute tries the typed value first, because templates are written against
// its Go field names, then the raw JSON.
func execute(out *bytes.Buffer, tmpl *template.Template, typed any, raw []byte) error {
	var b bytes.Buffer
	if err := tmpl.Execute(&b, typed); err != nil {
		var generic any
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		if err := dec.Decode(&generic); err != nil {
			return fmt.Errorf("unable to read inspect data: %w", err)
		}
		addEmpty(generic, typed)
		b.Reset()
		if err := tmpl.Option("missingkey=error").Execute(&b, generic); err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(out)
	return err
}

// addEmpty gives the raw value the texts that newer versions of the API leave
// out when they are empty: templates of older clients name them.
func addEmpty(generic, typed any) {
	m, ok := generic.(map[string]any)
	v := reflect.ValueOf(typed)
	if !ok || v.Kind() != reflect.Struct {
		return
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		if _, known := m[name]; !known && f.IsExported() && f.Type.Kind() == reflect.String {
			m[name] = ""
		}
	}
}

func writeList(out io.Writer, list []json.RawMessage, compact bool) error {
	var b bytes.Buffer
	if len(list) == 0 {
		b.WriteString("[]")
	} else {
		var joined bytes.Buffer
		joined.WriteByte('[')
		for i, raw := range list {
			if i > 0 {
				joined.WriteByte(',')
			}
			joined.Write(raw)
		}
		joined.WriteByte(']')
		var err error
		if compact {
			err = json.Compact(&b, joined.Bytes())
		} else {
			err = json.Indent(&b, joined.Bytes(), "", "    ")
		}
		if err != nil {
			return err
		}
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(out)
	return err
}
