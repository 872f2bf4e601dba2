package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/protobuf/encoding/protowire"
)

// field writes one field of a protobuf message.
func field(n protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), value)
}

// Requests that BuildKit's own clients never make, with parts missing where the
// solver looks for them, are errors of their own and do not end the engine.
func TestCVE_2024_23650_MalformedDefinitions(t *testing.T) {
	e := engine(t, "")
	pid := e.PID()
	c := &http.Client{Transport: &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", e.Socket())
	}}}
	// solve asks for a definition of the operations, of which the last is the result.
	asked := 0
	var said strings.Builder
	solve := func(ops ...[]byte) string {
		t.Helper()
		var definition []byte
		for _, op := range ops {
			definition = append(definition, field(1, op)...)
		}
		asked++
		message := append(field(1, fmt.Appendf(nil, "ref%d", asked)), field(2, definition)...)
		frame := append([]byte{0}, binary.BigEndian.AppendUint32(nil, uint32(len(message)))...)
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://engine/moby.buildkit.v1.Control/Solve", bytes.NewReader(append(frame, message...)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/grpc")
		r.Header.Set("TE", "trailers")
		resp, err := c.Do(r)
		if err != nil {
			t.Fatalf("the engine cuts the connection: %v", err)
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		if s := resp.Trailer.Get("Grpc-Status"); s != "" {
			said.WriteString(resp.Trailer.Get("Grpc-Message") + "\n")
			return s
		}
		said.WriteString(resp.Header.Get("Grpc-Message") + "\n")
		return resp.Header.Get("Grpc-Status")
	}
	const exec, source, file, buildOp, merge, diff = 2, 3, 4, 5, 6, 7
	input := field(1, []byte("\x0a\x47sha256:0000000000000000000000000000000000000000000000000000000000000000"))
	for name, ops := range map[string][][]byte{
		"nothing":                    {},
		"an empty operation":         {{}},
		"exec of a bare root":        {field(exec, append(field(1, field(1, []byte("true"))), field(2, append(append(protowire.AppendTag(nil, 1, protowire.VarintType), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1), field(3, []byte("/"))...))...))},
		"platform and limits empty":  {append(append(field(file, field(2, nil)), field(10, nil)...), field(11, nil)...)},
		"no bytes of a message":      {{0xff, 0xff}},
		"exec without meta":          {field(exec, nil)},
		"exec with an empty mount":   {field(exec, field(2, nil))},
		"exec of nothing":            {field(exec, append(field(1, nil), field(2, nil)...))},
		"source without identifier":  {field(source, nil)},
		"source of no scheme":        {field(source, field(1, []byte("x")))},
		"local source without name":  {field(source, field(1, []byte("local://")))},
		"file without actions":       {field(file, nil)},
		"file with an empty action":  {field(file, field(2, nil))},
		"build of nothing":           {field(buildOp, nil)},
		"merge of nothing":           {field(merge, nil)},
		"merge of an empty input":    {field(merge, field(1, nil))},
		"diff of nothing":            {field(diff, nil)},
		"an input that is not there": {append(input, field(exec, nil)...)},
		"an input that is empty":     {append(field(1, nil), field(file, nil)...)},
	} {
		ends := [][]byte{nil, field(1, nil), input}
		if len(ops) > 0 { // as a definition ends: the first operation's output is the result
			sum := sha256.Sum256(ops[0])
			ends = append(ends, field(1, field(1, []byte("sha256:"+hex.EncodeToString(sum[:])))))
		}
		for _, more := range ends {
			list := ops
			if more != nil {
				list = append(list[:len(list):len(list)], more)
			}
			// An empty definition is a build of nothing, which succeeds.
			status := solve(list...)
			if status == "" || status == "0" && len(ops) > 0 {
				t.Errorf("%s: status %q", name, status)
			}
			if code, body, err := e.API("GET", "/_ping", nil); err != nil || code != 200 || e.PID() != pid || !e.Running() {
				t.Fatalf("%s: the engine is gone: %d %s %v\n%s", name, code, body, err, e.LogTail(50))
			}
		}
	}
	// Some were refused as they came, others went as far as to a step.
	for _, want := range []string{"failed to load LLB: invalid exec op with no meta", "failed to load cache key", `process "true" did not complete`} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("nobody said %q:\n%s", want, said.String())
		}
	}
}
