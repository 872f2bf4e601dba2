// Probe is run in containers and beside them: it serves ports that answer with
// who asked, and asks such ports.
//
//	probe serve PORT...            tcp and udp, IPv4 and IPv6
//	probe ask PROTO,ADDRESS...     one line each: the word and the answer, "-" for none
//	probe insist PROTO,ADDRESS...  asks until its input ends; prints what failed, and how often each was answered
//	probe spoof SOURCE ADDRESS     one UDP packet over IPv4 with any source
//	probe sink PORT...             takes in what comes by tcp, and answers nothing
//	probe pour ADDRESS TIME        sends as much as it can; prints MB/s and processor time
//	probe knock ADDRESS TIME       connects, reads, closes; prints connections/s and processor time
//	probe turns connect|exchange ADDRESS PORT TIME
//	                               is both ends itself; prints the kernel's time for a connection or an exchange of two bytes
package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long an answer may take. What is dropped costs as much.
const patience = 900 * time.Millisecond

func main() {
	if len(os.Args) < 3 {
		os.Exit(2)
	}
	switch args := os.Args[2:]; os.Args[1] {
	case "serve":
		for _, port := range args {
			serve(port)
		}
		fmt.Println("ready")
		select {}
	case "ask":
		ask(args)
	case "insist":
		insist(args)
	case "sink":
		for _, port := range args {
			sink(port)
		}
		fmt.Println("ready")
		select {}
	case "pour", "knock":
		d, err := time.ParseDuration(args[1])
		if err != nil {
			panic(err)
		}
		if os.Args[1] == "pour" {
			pour(args[0], d)
		} else {
			knock(args[0], d)
		}
	case "turns":
		d, err := time.ParseDuration(args[3])
		if err == nil {
			err = turns(args[0], args[1], args[2], d)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "spoof":
		if err := spoof(args[0], args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func serve(port string) {
	tcp, err := net.Listen("tcp", ":"+port)
	if err != nil {
		panic(err)
	}
	udp, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, host(c.RemoteAddr()))
			c.Close()
		}
	}()
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			udp.WriteTo([]byte(host(from)), from)
		}
	}()
}

func host(a net.Addr) string {
	return netip.MustParseAddrPort(a.String()).Addr().Unmap().WithZone("").String()
}

func ask(words []string) {
	answers := make([]string, len(words))
	var all sync.WaitGroup
	for i, w := range words {
		all.Go(func() {
			proto, addr, _ := strings.Cut(w, ",")
			answers[i] = one(proto, addr)
		})
	}
	all.Wait()
	for i, w := range words {
		fmt.Println(w, answers[i])
	}
}

func one(proto, addr string) string {
	until := time.Now().Add(patience)
	c, err := net.DialTimeout(proto, addr, patience)
	if err != nil {
		return "-"
	}
	defer c.Close()
	buf := make([]byte, 64)
	for wait := 300 * time.Millisecond; time.Now().Before(until); {
		if proto == "udp" {
			c.Write([]byte("?"))
		}
		c.SetReadDeadline(time.Now().Add(min(wait, time.Until(until))))
		n, err := c.Read(buf)
		if err == nil && n > 0 {
			return string(buf[:n])
		}
		if proto == "tcp" && time.Until(until) > 0 && !os.IsTimeout(err) {
			return "-"
		}
	}
	return "-"
}

func spoof(from, to string) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	dst := netip.MustParseAddrPort(to)
	p := make([]byte, 29) // IPv4 header, UDP header, one byte; the kernel fills length and sum
	p[0], p[8], p[9] = 0x45, 64, syscall.IPPROTO_UDP
	copy(p[12:], netip.MustParseAddr(from).AsSlice())
	copy(p[16:], dst.Addr().AsSlice())
	p[20], p[21], p[22], p[23], p[25] = 4, 0, byte(dst.Port()>>8), byte(dst.Port()), 9
	return syscall.Sendto(fd, p, 0, &syscall.SockaddrInet4{Addr: dst.Addr().As4()})
}

func sink(port string) {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for buf := make([]byte, 1<<20); ; {
					if _, err := c.Read(buf); err != nil {
						return
					}
				}
			}()
		}
	}()
}

func pour(addr string, d time.Duration) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		panic(err)
	}
	buf, total, begin := make([]byte, 1<<20), 0, time.Now()
	for time.Since(begin) < d {
		n, err := c.Write(buf)
		if err != nil {
			panic(err)
		}
		total += n
	}
	tell(float64(total)/1e6, begin)
}

func knock(addr string, d time.Duration) {
	total, begin := 0, time.Now()
	buf := make([]byte, 64)
	for time.Since(begin) < d {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			panic(err)
		}
		if _, err := c.Read(buf); err != nil {
			panic(err)
		}
		// Ends at once: ports that wait for their time to pass run out otherwise, and
		// the figure were that of the port search.
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
		total++
	}
	tell(float64(total), begin)
}

// tell prints how much was done a second, and what one of it took of processor
// time, in microseconds: what the kernel did for this process is in it, the way of
// its packets through rules and bridges too.
func tell(total float64, begin time.Time) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	used := time.Duration(r.Utime.Nano() + r.Stime.Nano())
	fmt.Printf("%.0f %.3f\n", total/time.Since(begin).Seconds(), float64(used.Microseconds())/total)
}
