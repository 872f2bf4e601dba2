// Command wherry-keeper is the parent of an engine's processes. wherryd has it
// inside and starts it.
package main

import (
	"os"

	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/supervise/keeper"
)

func main() {
	var reserve sandbox.Reserve
	os.Exit(keeper.Main(os.Args, reserve.Start, &reserve))
}
