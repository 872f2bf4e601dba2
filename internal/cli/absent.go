package cli

import "fmt"

const swarm = "swarm is not served by this version"

// absent are docker's verbs that are not here, with what to do instead.
var absent = map[string]string{
	"swarm": swarm, "service": swarm, "stack": swarm, "node": swarm, "config": swarm,
	"plugin":     "managed plugins are not served: a volume driver is used by the socket of its program in /run/docker/plugins",
	"checkpoint": "checkpoints are not served by this version",
	"trust":      "content trust is not served: name images by digest",
	"manifest":   "manifest lists are not edited here: build for several platforms, or copy them as they are with pull and push",
}

// unknown is the error for a verb that is not here.
func unknown(program, verb string) error {
	if why, ok := absent[verb]; ok {
		return fmt.Errorf("%[1]s: %[1]s %[2]s: %[3]s\n\nRun '%[1]s --help' for what is", program, verb, why)
	}
	return fmt.Errorf("%[1]s: unknown command: %[1]s %[2]s\n\nRun '%[1]s --help' for more information", program, verb)
}
