// Package undo takes back the steps of an operation that failed half-way.
//
//	var u undo.Stack
//	defer u.Run()
//	dir, err := make()          // each step that succeeds
//	u.Add(func() { remove(dir) }) // says how it is taken back
//	u.Keep()                    // all went well: nothing is taken back
package undo

// Stack holds undo steps; they run last in, first out. The zero value is ready.
// It is used by one goroutine at a time.
type Stack struct{ steps []func() }

// Add puts a step on the stack.
func (s *Stack) Add(step func()) { s.steps = append(s.steps, step) }

// Run takes back everything that was added since the last Keep or Run.
func (s *Stack) Run() {
	for i := len(s.steps) - 1; i >= 0; i-- {
		s.steps[i]()
	}
	s.steps = nil
}

// Keep forgets the steps: the operation succeeded.
func (s *Stack) Keep() { s.steps = nil }
