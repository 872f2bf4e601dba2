// Command counter prints a number on each millisecond, for tests that look for
// a missing or doubled line.
//
//	counter LINES CODE    print LINES numbers (0: for ever), then end with CODE
package main

import (
	"os"
	"strconv"
	"time"
)

func main() {
	lines, code := 0, 0
	if len(os.Args) == 3 {
		lines, _ = strconv.Atoi(os.Args[1])
		code, _ = strconv.Atoi(os.Args[2])
	}
	tick := time.NewTicker(time.Millisecond)
	for n := 0; lines == 0 || n < lines; n++ {
		if _, err := os.Stdout.WriteString(strconv.Itoa(n) + "\n"); err != nil {
			os.Exit(99)
		}
		<-tick.C
	}
	os.Exit(code)
}
