package nft

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Turn continues with what a map of verdicts has for a field; a packet without
// an element goes on.
func Turn(set string, f Field) Expr { return turn{f, set} }

type turn struct {
	field Field
	set   string
}

func (v turn) String() string { return v.field.text + " vmap @" + v.set }

func (v turn) lower(l *lowering) error {
	set := l.sets[v.set]
	if set == nil {
		return fmt.Errorf("nft: no map %s", v.set)
	}
	l.load([]Field{v.field})
	l.out = append(l.out, &expr.Lookup{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: set.Name, SetID: set.ID})
	return nil
}

// verdicts reports whether the set is a map of verdicts.
func (s *Set) verdicts() bool { return len(s.Value) == 1 && s.Value[0] == Verdict }

// isVerdicts is verdicts for a set that the library has read: it takes the type
// of the value for that of the key.
func isVerdicts(s *nftables.Set) bool {
	magic := nftables.TypeVerdict.GetNFTMagic()
	return s.IsMap && (s.DataType.GetNFTMagic() == magic || s.KeyType.GetNFTMagic() == magic)
}

// verdictOf reads an element's verdict as it is written: "jump CHAIN", "goto CHAIN".
func verdictOf(s string) (*expr.Verdict, error) {
	kind, chain, found := strings.Cut(s, " ")
	kinds := map[string]expr.VerdictKind{"jump": expr.VerdictJump, "goto": expr.VerdictGoto}
	if k, ok := kinds[kind]; ok && found {
		return &expr.Verdict{Kind: k, Chain: chain}, nil
	}
	return nil, fmt.Errorf("nft: verdict %q", s)
}

// readVerdict gives an element of a map of verdicts that the kernel has told of
// its verdict.
func readVerdict(e *nftables.SetElement) error {
	ad, err := netlink.NewAttributeDecoder(e.Val)
	if err != nil {
		return fmt.Errorf("nft: verdict: %w", err)
	}
	ad.ByteOrder = binary.BigEndian
	e.VerdictData = &expr.Verdict{}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CODE:
			e.VerdictData.Kind = expr.VerdictKind(int32(ad.Uint32()))
		case unix.NFTA_VERDICT_CHAIN:
			e.VerdictData.Chain = ad.String()
		}
	}
	e.Val = nil
	return ad.Err()
}
