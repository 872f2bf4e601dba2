package config

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBuilder(t *testing.T) {
	age, most := 48*time.Hour, int64(7)
	rules := []BuilderRule{{Filters: []string{"type==source.local"}, Keep: 48 * time.Hour, MaxUsed: 512 << 20}, {All: true, Reserved: 1, MaxUsed: 2, MinFree: 3}}
	for text, change := range map[string]func(*Builder){
		`{}`:                                   func(*Builder) {},
		`{"gc":{"enabled":false}}`:             func(b *Builder) { b.GC.Disabled = true },
		`{"gc":{"enabled":true}}`:              func(*Builder) {},
		`{"gc":{"defaultKeepStorage":"20GB"}}`: func(b *Builder) { b.GC.MaxUsed = 20 << 30 },
		`{"gc":{"defaultReservedSpace":1,"defaultMaxUsedSpace":"2","defaultMinFreeSpace":"1kB"}}`: func(b *Builder) {
			b.GC.Reserved, b.GC.MaxUsed, b.GC.MinFree = 1, 2, 1024
		},
		`{"gc":{"policy":[{"keepStorage":"512MB","filter":["type==source.local","unused-for=48h"]},{"all":true,"reservedSpace":"1","maxUsedSpace":"2","minFreeSpace":"3"}]}}`: func(b *Builder) {
			b.GC.Rules = rules
		},
		`{"gc":{"policy":[{"keepStorage":"512MB","filter":{"until":{"172800":true},"type=":{"source.local":true}}},{"all":true,"reservedSpace":"1","maxUsedSpace":"2","minFreeSpace":"3"}]}}`: func(b *Builder) {
			b.GC.Rules = rules
		},
		`{"history":{"maxAge":"48h","maxEntries":7}}`: func(b *Builder) { b.History = History{&age, &most} },
		`{"history":{"maxAge":"172800"}}`:             func(b *Builder) { b.History.MaxAge = &age },
		`{"entitlements":{"network-host":false,"security-insecure":true,"device":false}}`: func(b *Builder) {
			b.HostNetwork, b.Insecure, b.Devices = false, true, false
		},
	} {
		want := Builder{HostNetwork: true, Devices: true}
		change(&want)
		var got Builder
		if err := builder(&got).(builderValue).decode(json.RawMessage(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		} else if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", text, d)
		}
	}
	for text, want := range map[string]string{
		`{"gc":{"bogus":1}}`:                                  `unknown field "bogus"`,
		`{"gc":{"defaultKeepStorage":"75%"}}`:                 `invalid size "75%"`,
		`{"gc":{"policy":[{"filter":["bogus==x"]}]}}`:         `invalid filter "bogus==x"`,
		`{"gc":{"policy":[{"filter":["unused-for=often"]}]}}`: `invalid filter "unused-for=often"`,
		`{"history":{"maxAge":"long"}}`:                       `invalid maxAge "long"`,
		`{"history":{"maxEntries":-1}}`:                       "invalid maxEntries -1",
		`{"entitlements":{"all":true}}`:                       `entitlement "all" is not served`,
	} {
		if err := builder(&Builder{}).(builderValue).decode(json.RawMessage(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
