// Package classic owns the classic builder's output: it turns the progress of a
// BuildKit build into the lines "Step 1/3 : FROM busybox", " ---> Running in
// 0123456789ab" and so on, in the order of the Dockerfile, whatever the order
// in which the steps were made.
//
// There are no intermediate images and containers. The ids that the lines have
// are made of the instructions so far and the base, so that they are the same
// for the same Dockerfile.
package classic

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/wherry-engine/wherry/internal/id"
)

// Output writes one build's lines. Its methods may be called concurrently.
type Output struct {
	message func(jsonstream.Message)
	remove  bool
	fresh   bool
	image   func(ref string) (id string, triggers []string) // of an image that is here

	mu       sync.Mutex
	plan     []step
	total    int
	totals   map[string]int // steps with a vertex, by stage
	vertices map[string]*vertex
	places   map[place]*vertex
	at       int  // first step that is not over
	begun    bool // its first line was printed
	running  string
	cached   bool // the steps before it in its stage were
	chain    string
}

// step is one line of the Dockerfile.
type step struct {
	number int
	text   string
	stage  string
	place  int    // among the steps of the stage that BuildKit shows, 0 for none
	from   string // FROM: the base
	runs   bool   // the classic builder runs a container for it
	outer  bool   // an ARG before the first FROM, which makes nothing
	hidden bool   // a trigger of the base: it has no line of its own
	head   string // printed with it
}

// place is where BuildKit shows a step: "[stage 2/3]".
type place struct {
	stage string
	n     int
}

// vertex is a step as BuildKit reports it.
type vertex struct {
	started, completed, cached, failed bool
	log                                []entry
}

type entry struct {
	stderr bool
	text   string
}

// New makes the output of a build that sends its lines to message; a fresh one
// uses no cache.
func New(message func(jsonstream.Message), remove, fresh bool, image func(ref string) (id string, triggers []string)) *Output {
	return &Output{message: message, remove: remove, fresh: fresh, image: image, vertices: map[string]*vertex{}, places: map[place]*vertex{}, totals: map[string]int{}}
}

// Plan reads the Dockerfile: which steps there will be for a target stage.
func (o *Output) Plan(data []byte, target string) error {
	res, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return err
	}
	stages, meta, err := instructions.Parse(res.AST, nil)
	if err != nil {
		return err
	}
	wanted := reachable(stages, target)
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range meta {
		o.add(step{text: text(&m), outer: true})
	}
	for i := range stages {
		st := &stages[i]
		name := strings.ToLower(st.Name)
		if name == "" {
			name = fmt.Sprintf("stage-%d", i)
		}
		if len(stages) == 1 {
			name = ""
		}
		if !wanted[i] {
			continue
		}
		n := 0
		first := step{text: st.SourceCode, stage: name, from: st.BaseName}
		if _, own := stageOf(stages[:i], st.BaseName); !own && st.BaseName != "scratch" {
			n++
			first.place = n
		}
		o.add(first)
		n = o.addTriggers(first, name, n)
		for _, c := range st.Commands {
			s := step{text: text(c), stage: name}
			switch c.(type) {
			case *instructions.RunCommand, *instructions.WorkdirCommand:
				n++
				s.place, s.runs = n, true
			case *instructions.CopyCommand, *instructions.AddCommand:
				n++
				s.place = n
			default:
				s.runs = true
			}
			o.add(s)
		}
		o.totals[name] = n
	}
	o.advance()
	return nil
}

func (o *Output) add(s step) {
	if !s.hidden {
		o.total++
		s.number = o.total
	}
	o.plan = append(o.plan, s)
}

// addTriggers adds what the base's ONBUILD instructions do.
func (o *Output) addTriggers(from step, stage string, n int) int {
	if from.place == 0 {
		return n
	}
	_, list := o.image(from.from)
	head := fmt.Sprintf("# Executing %d build triggers\n", len(list))
	if len(list) == 1 {
		head = "# Executing 1 build trigger\n"
	}
	for _, t := range list {
		s := step{text: t, stage: stage, hidden: true, runs: true, head: head}
		verb, _, _ := strings.Cut(strings.TrimSpace(t), " ")
		switch strings.ToUpper(verb) {
		case "RUN", "WORKDIR":
			n++
			s.place = n
		case "COPY", "ADD":
			n++
			s.place, s.runs = n, false
		}
		o.add(s)
		head = ""
	}
	return n
}

// text is an instruction as it was written.
func text(c any) string {
	if s, ok := c.(fmt.Stringer); ok {
		return strings.TrimSpace(s.String())
	}
	if n, ok := c.(interface{ Name() string }); ok {
		return n.Name()
	}
	return ""
}

// stageOf finds a stage by its name or number among those before.
func stageOf(stages []instructions.Stage, name string) (int, bool) {
	for i := len(stages) - 1; i >= 0; i-- {
		if stages[i].Name != "" && strings.EqualFold(stages[i].Name, name) {
			return i, true
		}
	}
	return 0, false
}

// reachable are the stages that a target needs; BuildKit makes no others.
func reachable(stages []instructions.Stage, target string) map[int]bool {
	last := len(stages) - 1
	if target != "" {
		if i, ok := stageOf(stages, target); ok {
			last = i
		} else if n := 0; true {
			if _, err := fmt.Sscanf(target, "%d", &n); err == nil && n >= 0 && n < len(stages) {
				last = n
			}
		}
	}
	out := map[int]bool{}
	var visit func(i int)
	need := func(before int, name string) {
		if i, ok := stageOf(stages[:before], name); ok {
			visit(i)
			return
		}
		n := 0
		if c, err := fmt.Sscanf(name, "%d", &n); c == 1 && err == nil && fmt.Sprint(n) == name && n >= 0 && n < before {
			visit(n)
		}
	}
	visit = func(i int) {
		if out[i] {
			return
		}
		out[i] = true
		need(i, stages[i].BaseName)
		for _, c := range stages[i].Commands {
			switch c := c.(type) {
			case *instructions.CopyCommand:
				need(i, c.From)
			case *instructions.RunCommand:
				for _, m := range instructions.GetMounts(c) {
					need(i, m.From)
				}
			}
		}
	}
	if last >= 0 {
		visit(last)
	}
	return out
}

// Status takes a report of the solver in.
func (o *Output) Status(s *controlapi.StatusResponse) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, v := range s.Vertexes {
		have := o.vertices[v.Digest]
		if have == nil {
			have = &vertex{}
			o.vertices[v.Digest] = have
		}
		have.started = have.started || v.Started != nil
		have.completed = have.completed || v.Completed != nil
		have.cached = have.cached || v.Cached
		have.failed = have.failed || v.Error != ""
		if p, total, ok := placeOf(v.Name); ok {
			// Triggers of a base that was not here come first and are not in the plan.
			p.n -= total - o.totals[p.stage]
			if p.n < 1 && total > o.totals[p.stage] && strings.Contains(v.Name, "] FROM ") {
				p.n = 1
			}
			if p.n >= 1 {
				o.places[p] = have
			}
		}
	}
	for _, l := range s.Logs {
		if v := o.vertices[l.Vertex]; v != nil {
			v.log = append(v.log, entry{l.Stream == 2, string(l.Msg)})
		}
	}
	o.advance()
	return nil
}

// placeOf reads "[stage 2/3] RUN ...", with or without stage and platform.
func placeOf(name string) (p place, total int, ok bool) {
	head, _, ok := strings.Cut(strings.TrimPrefix(name, "["), "] ")
	if !ok || !strings.HasPrefix(name, "[") {
		return p, 0, false
	}
	f := strings.Fields(head)
	if len(f) == 0 {
		return p, 0, false
	}
	if c, err := fmt.Sscanf(f[len(f)-1], "%d/%d", &p.n, &total); c != 2 || err != nil {
		return p, 0, false
	}
	if len(f) > 1 && !strings.Contains(f[len(f)-2], "/") && !strings.Contains(f[len(f)-2], "->") {
		p.stage = strings.ToLower(f[len(f)-2])
	}
	return p, total, true
}

func (o *Output) say(format string, args ...any) {
	o.message(jsonstream.Message{Stream: fmt.Sprintf(format, args...)})
}

// advance prints what can be printed. o.mu is held.
func (o *Output) advance() {
	for o.at < len(o.plan) {
		s := &o.plan[o.at]
		if !o.begun {
			if s.hidden && s.head != "" {
				o.say("%s", s.head)
			} else if !s.hidden {
				o.say("Step %d/%d : %s", s.number, o.total, s.text)
				o.say("\n")
			}
			o.begun = true
			if s.from != "" || s.number == 1 {
				o.cached, o.chain = !o.fresh, ""
			}
		}
		if s.place == 0 {
			o.finish(s, nil)
			continue
		}
		v := o.places[place{s.stage, s.place}]
		if v == nil || !v.started && !v.completed {
			return
		}
		o.show(s, v)
		if !v.completed || v.failed {
			return
		}
		o.finish(s, v)
	}
}

// show prints what a step under way has said.
func (o *Output) show(s *step, v *vertex) {
	if v.cached {
		return
	}
	if s.runs && o.running == "" {
		o.running = id.New()[:12]
		o.say(" ---> Running in %s\n", o.running)
	}
	for _, e := range v.log {
		if e.stderr {
			o.say("\x1b[91m%s\x1b[0m", e.text)
		} else {
			o.say("%s", e.text)
		}
	}
	v.log = nil
}

// finish ends a step; v is nil for one that BuildKit has no part of.
func (o *Output) finish(s *step, v *vertex) {
	base := ""
	if s.from != "" && s.from != "scratch" {
		base, _ = o.image(s.from)
	}
	sum := sha256.Sum256([]byte(o.chain + "\n" + base + "\n" + s.text))
	o.chain = hex.EncodeToString(sum[:])
	name := o.chain[:12]
	if s.from != "" {
		if base != "" {
			name = short(base)
		}
		if s.from == "scratch" {
			name = ""
		}
	} else {
		if v != nil {
			o.cached = v.cached
		}
		switch {
		case s.outer:
			o.next()
			return
		case o.cached:
			o.say(" ---> Using cache\n")
		case s.runs:
			if o.running == "" {
				o.running = id.New()[:12]
				o.say(" ---> Running in %s\n", o.running)
			}
			if o.remove {
				o.say(" ---> Removed intermediate container %s\n", o.running)
			}
		}
	}
	if o.at < len(o.plan)-1 { // the last one's is the image, see Done
		o.say(" ---> %s\n", name)
	}
	o.next()
}

func (o *Output) next() {
	o.at++
	o.begun, o.running = false, ""
}

func short(image string) string {
	hex := strings.TrimPrefix(image, "sha256:")
	return hex[:min(12, len(hex))]
}

// Done prints the rest of a build that made the image with that id.
func (o *Output) Done(image string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.at < len(o.plan) {
		o.advance()
		if o.at == len(o.plan) {
			break
		}
		// BuildKit did not have to look at it.
		s := &o.plan[o.at]
		o.places[place{s.stage, s.place}] = &vertex{started: true, completed: true, cached: true}
	}
	o.say(" ---> %s\n", short(image))
	if data, err := json.Marshal(build.Result{ID: image}); err == nil {
		raw := json.RawMessage(data)
		o.message(jsonstream.Message{Aux: &raw})
	}
	o.say("Successfully built %s\n", short(image))
}

// Fail prints what a failed step has said.
func (o *Output) Fail() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.advance()
}
