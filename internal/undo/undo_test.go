package undo

import "testing"

func TestStack(t *testing.T) {
	var order string
	var s Stack
	s.Add(func() { order += "a" })
	s.Add(func() { order += "b" })
	s.Run()
	s.Run()
	if order != "ba" {
		t.Errorf("undone in the order %q", order)
	}
	s.Add(func() { t.Error("undone after Keep") })
	s.Keep()
	s.Run()
}
