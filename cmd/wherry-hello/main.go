// Command wherry-hello is the only program of the built-in hello-world image.
package main

import "syscall"

const text = `
Hello from Wherry!
If you can read this, the engine on this machine can run containers.

What happened on the way to this message:
 1. The wherry client asked the engine, wherryd, for a container of the image
    hello-world.
 2. wherryd looked for that image. A small copy of it is built into the engine,
    for machines that have no image and no registry within reach.
 3. wherryd made the container's root directory, network and control groups,
    and had its keeper start this program inside them.
 4. The keeper wrote what you are reading to the container's log, and to your
    terminal.

Something with more in it:
 $ wherry run -it debian bash

What is here, and what else there is to do:
 $ wherry ps -a
 $ wherry logs CONTAINER
 $ wherry --help

`

func main() {
	for b := []byte(text); len(b) > 0; {
		n, err := syscall.Write(1, b)
		if err == syscall.EINTR { // package errors would double the program
			continue
		}
		if err != nil {
			syscall.Exit(1)
		}
		b = b[n:]
	}
}
