package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// The kernel's nfnetlink_conntrack.h, as far as it is used here.
const (
	ctSubsystem    = 1
	ctGet          = 1
	ctDelete       = 2
	ctaTupleOrig   = 1
	ctaTupleProto  = 2
	ctaProtoNumber = 1
	ctaProtoDst    = 3
)

// ForgetUDP removes the tracked UDP flows that were sent to these
// ports. A flow that goes on is bound to what the rules said at its first
// packet; forgotten, it meets the present ones. It acts in the calling
// thread's network namespace.
func ForgetUDP(ports ...uint16) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("conntrack socket: %w", err)
	}
	defer unix.Close(fd)
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := forget(fd, family, ports); err != nil {
			return err
		}
	}
	return nil
}

// forget is ForgetUDP for an address family.
func forget(fd int, family byte, ports []uint16) error {
	var tuples [][]byte
	err := exchange(fd, ctMessage(ctGet, unix.NLM_F_DUMP, family, nil), func(payload []byte) {
		if len(payload) < 4 {
			return
		}
		eachAttr(payload[4:], func(kind uint16, value []byte) {
			if kind == ctaTupleOrig && sentTo(value, ports) {
				tuples = append(tuples, append([]byte(nil), value...))
			}
		})
	})
	if err != nil {
		return fmt.Errorf("list conntrack: %w", err)
	}
	for _, t := range tuples {
		err := exchange(fd, ctMessage(ctDelete, unix.NLM_F_ACK, family, t), func([]byte) {})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("forget flow: %w", err)
		}
	}
	return nil
}

// sentTo reports whether a tuple is of UDP and to one of the ports.
func sentTo(tuple []byte, ports []uint16) bool {
	found := false
	eachAttr(tuple, func(kind uint16, value []byte) {
		if kind != ctaTupleProto {
			return
		}
		udp, port := false, uint16(0)
		eachAttr(value, func(kind uint16, v []byte) {
			switch {
			case kind == ctaProtoNumber && len(v) > 0:
				udp = v[0] == unix.IPPROTO_UDP
			case kind == ctaProtoDst && len(v) > 1:
				port = binary.BigEndian.Uint16(v)
			}
		})
		for _, p := range ports {
			found = found || udp && p == port
		}
	})
	return found
}

func ctMessage(kind uint16, flags int, family byte, tuple []byte) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN)
	binary.NativeEndian.PutUint16(b[4:], ctSubsystem<<8|kind)
	binary.NativeEndian.PutUint16(b[6:], uint16(unix.NLM_F_REQUEST|flags))
	binary.NativeEndian.PutUint32(b[8:], 1)
	b = append(b, family, unix.NFNETLINK_V0, 0, 0)
	if tuple != nil {
		b = binary.NativeEndian.AppendUint16(b, uint16(4+len(tuple)))
		b = binary.NativeEndian.AppendUint16(b, ctaTupleOrig|unix.NLA_F_NESTED)
		b = append(b, tuple...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

// exchange sends one request and reads until it is answered.
func exchange(fd int, request []byte, each func(payload []byte)) error {
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		done, err := eachMessage(buf[:n], func(_ uint16, payload []byte) { each(payload) })
		if done || err != nil {
			return err
		}
	}
}

// eachMessage calls fn for the messages of a datagram up to the one that ends
// an exchange.
func eachMessage(b []byte, fn func(kind uint16, payload []byte)) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		l := int(binary.NativeEndian.Uint32(b))
		if l < unix.NLMSG_HDRLEN || l > len(b) {
			return true, errors.New("netlink: malformed message")
		}
		payload := b[unix.NLMSG_HDRLEN:l]
		switch kind := binary.NativeEndian.Uint16(b[4:]); kind {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(payload) < 4 {
				return true, unix.EBADMSG
			}
			if code := int32(binary.NativeEndian.Uint32(payload)); code != 0 {
				return true, unix.Errno(-code)
			}
			return true, nil
		default:
			fn(kind, payload)
		}
		b = b[min((l+3)&^3, len(b)):]
	}
	return false, nil
}

func eachAttr(b []byte, fn func(kind uint16, value []byte)) {
	for len(b) >= 4 {
		l := int(binary.NativeEndian.Uint16(b))
		if l < 4 || l > len(b) {
			return
		}
		fn(binary.NativeEndian.Uint16(b[2:])&^uint16(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:l])
		b = b[min((l+3)&^3, len(b)):]
	}
}
