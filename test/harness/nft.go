package harness

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Numbers of linux/netfilter/nf_tables.h that x/sys does not name.
const (
	nftGetTable = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE
	nftTabName  = 1 // NFTA_TABLE_NAME
)

// nftTables asks the kernel for the nftables tables of this thread's network
// namespace, as "FAMILY NAME". It speaks netlink itself so that the check does
// not rest on the code it checks.
func nftTables() ([]string, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("netfilter socket: %w", err)
	}
	defer unix.Close(fd)
	req := make([]byte, unix.NLMSG_HDRLEN+4)
	binary.NativeEndian.PutUint32(req, uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], nftGetTable)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("ask for nft tables: %w", err)
	}
	var tables []string
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return nil, fmt.Errorf("read nft tables: %w", err)
		}
		for b := buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			size := int(binary.NativeEndian.Uint32(b))
			kind := binary.NativeEndian.Uint16(b[4:])
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				break
			}
			switch kind {
			case unix.NLMSG_DONE:
				return tables, nil
			case unix.NLMSG_ERROR:
				return nil, fmt.Errorf("nft tables: errno %d", -int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:])))
			}
			body := b[unix.NLMSG_HDRLEN:size]
			if len(body) > 4 {
				tables = append(tables, fmt.Sprintf("%s %s", family(body[0]), attr(body[4:], nftTabName)))
			}
			b = b[min(len(b), (size+3)&^3):]
		}
	}
}

// attr returns the text of one netlink attribute.
func attr(b []byte, want uint16) string {
	for len(b) >= 4 {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])&0x3fff
		if size < 4 || size > len(b) {
			return ""
		}
		if kind == want {
			text := b[4:size]
			for len(text) > 0 && text[len(text)-1] == 0 {
				text = text[:len(text)-1]
			}
			return string(text)
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return ""
}

func family(f byte) string {
	switch f {
	case unix.NFPROTO_INET:
		return "inet"
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	case unix.NFPROTO_BRIDGE:
		return "bridge"
	}
	return fmt.Sprint("family", f)
}
