package build

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/subrequests"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/frontend/subrequests/outline"
	"github.com/moby/buildkit/frontend/subrequests/targets"
	"github.com/moby/buildkit/solver/pb"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// call is a question about a Dockerfile that is asked in place of building it.
type call struct {
	name   string // "" builds
	format string // text or json
}

// parseCall parses [method=]name[,format=text|json].
func parseCall(text string) (call, error) {
	if text == "" || text == "build" {
		return call{}, nil
	}
	fields, err := splitCSV(text)
	if err != nil {
		return call{}, fmt.Errorf("invalid call %q: %w", text, err)
	}
	c := call{format: "text"}
	for _, f := range fields {
		attrs, err := pairs("call", f)
		if err != nil {
			attrs = map[string]string{"method": f}
		}
		for k, v := range attrs {
			switch k {
			case "method", "type":
				c.name = v
			case "format":
				c.format = v
			default:
				return c, fmt.Errorf("invalid call %q: field %s is not known", text, k)
			}
		}
	}
	switch c.name {
	case "build":
		return call{}, nil
	case "check":
		c.name = "lint"
	case "lint", "outline", "targets", "subrequests.describe":
	default:
		return c, fmt.Errorf("invalid call %q: want build, check, outline or targets", text)
	}
	if c.format != "text" && c.format != "json" {
		return c, fmt.Errorf("invalid call %q: format is text or json", text)
	}
	return c, nil
}

// ask puts the question and prints the answer.
func (o *options) ask(ctx context.Context, sh *shell.Shell, e *engine, opt *client.SolveOpt, show *display) error {
	opt.Exports, opt.Internal = nil, true
	opt.FrontendAttrs["requestid"] = "frontend." + o.call.name
	opt.FrontendAttrs["frontend.caps"] = "moby.buildkit.frontend.subrequests+forward"
	frontend := opt.Frontend
	answer := map[string]string{}
	_, err := show.follow(func(ch chan *client.SolveStatus) (*client.SolveResponse, error) {
		return e.kit.Build(ctx, *opt, "wherry", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
			inputs := map[string]*pb.Definition{}
			for k, st := range opt.FrontendInputs {
				def, err := st.Marshal(ctx)
				if err != nil {
					return nil, err
				}
				inputs[k] = def.ToPB()
			}
			res, err := c.Solve(ctx, gateway.SolveRequest{Frontend: frontend, FrontendOpt: opt.FrontendAttrs, FrontendInputs: inputs})
			if err != nil {
				return nil, err
			}
			for k, v := range res.Metadata {
				answer[k] = string(v)
			}
			return gateway.NewResult(), nil
		}, ch)
	})
	if err != nil {
		return err
	}
	return o.call.print(sh.Out, answer)
}

// print shows an answer; check ends the program with 1 when it found something.
func (c call) print(w io.Writer, answer map[string]string) error {
	result := []byte(answer["result.json"])
	if c.format == "json" {
		if _, err := fmt.Fprintln(w, answer["result.json"]); err != nil {
			return err
		}
		return status(answer)
	}
	switch c.name {
	case "outline":
		return outline.PrintOutline(result, w)
	case "targets":
		return targets.PrintTargets(result, w)
	case "subrequests.describe":
		return subrequests.PrintDescribe(result, w)
	}
	var found lint.LintResults
	if err := json.Unmarshal(result, &found); err != nil {
		return fmt.Errorf("answer of the check: %w", err)
	}
	switch n := len(found.Warnings); {
	case n == 1:
		fmt.Fprintln(w, "Check complete, 1 warning has been found!")
	case n > 1:
		fmt.Fprintf(w, "Check complete, %d warnings have been found!\n", n)
	case found.Error == nil:
		fmt.Fprintln(w, "Check complete, no warnings found.")
	}
	same := func(s *pb.SourceInfo) *pb.SourceInfo { return s }
	if err := found.PrintTo(w, same); err != nil {
		return err
	}
	if found.Error != nil {
		var text bytes.Buffer
		found.PrintErrorTo(&text, same)
		return fmt.Errorf("%s", text.String())
	}
	return status(answer)
}

func status(answer map[string]string) error {
	if n, err := strconv.Atoi(answer["result.statuscode"]); err == nil && n != 0 {
		return &shell.StatusError{Code: n}
	}
	return nil
}
