// Command program is what wherry is without its verbs: it tells what it was not
// handed over with.
package main

import (
	"fmt"
	"os"
	"strings"

	_ "github.com/wherry-engine/wherry/internal/cli/early"
)

func main() { fmt.Println("here:", strings.Join(os.Args[1:], " ")) }
