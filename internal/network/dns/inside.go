package dns

import (
	"net"
	"os"
	"strconv"

	"github.com/wherry-engine/wherry/internal/linux/nft"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
)

// ServeIn starts answering at port 53 of address, one of the loopback's, in the
// network namespace ns; home is the engine's. The sockets have ports of the
// kernel's choice, and a rule in the namespace leads port 53 there: a program
// inside may itself listen on port 53 of every address.
func ServeIn(home, ns *os.File, address string, names Names) (*Server, error) {
	var udp net.PacketConn
	var tcp net.Listener
	err := rtnl.Enter(home, ns, func(*rtnl.Conn) (err error) {
		if udp, err = net.ListenPacket("udp4", address+":0"); err != nil {
			return err
		}
		tcp, err = net.Listen("tcp4", address+":0")
		return err
	})
	if err == nil {
		err = lead(ns, address, udp.LocalAddr().(*net.UDPAddr).Port, tcp.Addr().(*net.TCPAddr).Port)
	}
	if err == nil {
		return Serve(udp, tcp, names), nil
	}
	if udp != nil {
		udp.Close()
	}
	if tcp != nil {
		tcp.Close()
	}
	return nil, err
}

// lead writes the rule of ServeIn.
func lead(ns *os.File, address string, udp, tcp int) error {
	c, err := nft.Dial(ns)
	if err != nil {
		return err
	}
	defer c.Close()
	to := func(port int) []string { return []string{address, strconv.Itoa(port)} }
	return c.Create(&nft.Table{
		Name: "wherry",
		Sets: []nft.Set{{Name: "names", Key: []nft.Type{nft.Proto, nft.Service}, Value: []nft.Type{nft.IPv4, nft.Service}, Elements: []nft.Element{
			{Key: []string{"udp", "53"}, Value: to(udp)}, {Key: []string{"tcp", "53"}, Value: to(tcp)},
		}}},
		Chains: []nft.Chain{{Name: "local", Hook: &nft.Hook{Type: "nat", Point: "output", Priority: -100}, Rules: []nft.Rule{
			nft.R(nft.Is(nft.Dest(), address), nft.DNAT("names", nft.L4Proto(), nft.DestPort())),
		}}},
	})
}
