package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// insist asks again and again, each time as a new client with one packet or
// one connection, until its input ends. It prints a line for what failed, and
// at the end how often each word was answered.
func insist(words []string) {
	end := make(chan struct{})
	go func() {
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(end)
	}()
	answered := make([]int, len(words))
	var all sync.WaitGroup
	for i, w := range words {
		all.Go(func() {
			proto, addr, _ := strings.Cut(w, ",")
			for {
				begin := time.Now()
				if err := once(proto, addr); err != nil {
					fmt.Printf("failed %s at %s after %v: %v\n", w, begin.Format("05.000000"), time.Since(begin), err)
				} else {
					answered[i]++
				}
				select {
				case <-end:
					return
				case <-time.After(time.Millisecond): // the ephemeral ports last
				}
			}
		})
	}
	all.Wait()
	for i, w := range words {
		fmt.Println("answered", w, answered[i])
	}
}

// lossless is how long an answer may take where none may be lost: a busy
// machine is no loss, so what tells is that nothing had to be sent twice.
const lossless = 10 * time.Second

// again is when the kernel sends a SYN again that nobody has answered. (It does
// so at once when the answer is of another connection: the ports come round.)
const again = time.Second

func once(proto, addr string) error {
	begin := time.Now()
	c, err := net.DialTimeout(proto, addr, lossless)
	if err != nil {
		return err
	}
	defer c.Close()
	if proto == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return err
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(lossless)); err != nil {
		return err
	}
	n, err := c.Read(make([]byte, 64))
	if err != nil {
		return err
	}
	if n == 0 {
		return errors.New("an empty answer")
	}
	if t, ok := c.(*net.TCPConn); ok && time.Since(begin) >= again {
		return sentOnce(t)
	}
	return nil
}

// sentOnce says what the kernel had to send again.
func sentOnce(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var info *unix.TCPInfo
	var bad error
	if err := raw.Control(func(fd uintptr) { info, bad = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil {
		return err
	}
	if bad != nil {
		return bad
	}
	if info.Total_retrans > 0 {
		return fmt.Errorf("%d packets had to be sent again", info.Total_retrans)
	}
	return nil
}
