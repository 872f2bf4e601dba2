// Command sshlist asks the agent of SSH_AUTH_SOCK for its keys and prints how
// many it has.
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	const listKeys, keys = 11, 12
	c, err := net.Dial("unix", os.Getenv("SSH_AUTH_SOCK"))
	if err == nil {
		_, err = c.Write([]byte{0, 0, 0, 1, listKeys})
	}
	var head [9]byte
	if err == nil {
		_, err = io.ReadFull(c, head[:])
	}
	if err != nil || head[4] != keys {
		fmt.Fprintln(os.Stderr, "the agent does not answer:", err, head)
		os.Exit(1)
	}
	fmt.Println("keys:", binary.BigEndian.Uint32(head[5:]))
}
