package frame

import (
	"bytes"
	"testing"

	"github.com/moby/moby/api/pkg/stdcopy"
)

func TestStdcopyReadsIt(t *testing.T) {
	var wire, out, errs bytes.Buffer
	o, e := Writers(&wire)
	for range 3 {
		o.Write([]byte("out\n"))
		e.Write([]byte("err\n"))
		o.Write(nil)
	}
	if _, err := stdcopy.StdCopy(&out, &errs, &wire); err != nil {
		t.Fatal(err)
	}
	if out.String() != "out\nout\nout\n" || errs.String() != "err\nerr\nerr\n" {
		t.Errorf("%q %q", out.String(), errs.String())
	}
}
