// Package remote owns the drivers of networks and of addresses that are
// plugins: libnetwork's remote protocol, the checks of what a plugin answers,
// and the record of what plugins hold for containers.
//
// A plugin may be away, slow, or say anything: what it says of a link or of an
// address is believed as far as it can do no harm to the host or to other
// networks.
//
// Below the directory given to New, each endpoint that a plugin knows of has a
// file until the plugin was told that it has gone:
//
//	<endpoint id>.json  version 1: {"Version":1,"ID","Network","Driver","IPAM",…}
//
// They are written as the kernel writes: a lost one is an endpoint that stays
// with the plugin after a crash of the machine.
package remote

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/plugin"
)

// What plugins implement.
const (
	networks  = "NetworkDriver"
	addresses = "IpamDriver"
)

// Patience is how long a plugin may take to answer one question, and all
// questions with which something is taken back.
const Patience = 30 * time.Second

// Drivers are the plugins that drive networks or addresses. It is safe for
// concurrent use.
type Drivers struct {
	plugins  *plugin.Set // nil without any
	dir      string      // "" keeps nothing
	patience time.Duration

	mu    sync.Mutex
	known map[asked]Capabilities
}

// asked is what a plugin was asked for its capabilities as, once.
type asked struct {
	plugin *plugin.Plugin
	kind   string
}

// Capabilities are what a plugin says of itself.
type Capabilities struct {
	Scope                 string // of a network's driver: local or global
	RequiresMACAddress    bool   // of a driver of addresses: it wants to know the link's
	RequiresRequestReplay bool   // it knows nothing after the engine's start, and has to be asked again
	GwAllocChecker        bool   // of a network's driver: it wants to be asked whether networks have gateways
}

// New makes the drivers of the plugins in a set; dir is where the record is kept.
func New(plugins *plugin.Set, dir string, patience time.Duration) *Drivers {
	return &Drivers{plugins: plugins, dir: dir, patience: patience, known: map[asked]Capabilities{}}
}

// Names lists the network drivers that have been used.
func (d *Drivers) Names() []string {
	if d.plugins == nil {
		return nil
	}
	return d.plugins.Known(networks)
}

func (d *Drivers) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d.patience, fmt.Errorf("within %v", d.patience))
}

// get finds a plugin and what it can.
func (d *Drivers) get(ctx context.Context, name, kind string) (*plugin.Plugin, Capabilities, error) {
	if d.plugins == nil {
		return nil, Capabilities{}, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("plugin %q not found", name))
	}
	ctx, cancel := d.within(ctx)
	defer cancel()
	p, err := d.plugins.Get(ctx, name, kind)
	if err != nil {
		return nil, Capabilities{}, err
	}
	d.mu.Lock()
	c, ok := d.known[asked{p, kind}]
	d.mu.Unlock()
	if ok {
		return p, c, nil
	}
	err = p.Call(ctx, kind+".GetCapabilities", nil, &c)
	switch {
	case err != nil && (kind == networks || !errdefs.IsNotImplemented(err)):
		return nil, c, named(name, err)
	case kind == networks && c.Scope != "local" && c.Scope != "global":
		return nil, c, lie(name, kind, "GetCapabilities", "invalid capability: expecting 'local' or 'global', got %q", c.Scope)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) > 100 {
		clear(d.known) // plugins that come and go
	}
	d.known[asked{p, kind}] = c
	return p, c, nil
}

// call asks a plugin one question.
func (d *Drivers) call(ctx context.Context, name, kind, method string, in, out any) error {
	p, _, err := d.get(ctx, name, kind)
	if err != nil {
		return err
	}
	ctx, cancel := d.within(ctx)
	defer cancel()
	return named(name, p.Call(ctx, kind+"."+method, in, out))
}

// named is what a plugin says, with who says it.
func named(name string, err error) error {
	if e := (*plugin.Error)(nil); errors.As(err, &e) {
		return fmt.Errorf("plugin %s: %w", name, err)
	}
	return err
}

// optional is call for a method that a plugin need not have.
func (d *Drivers) optional(ctx context.Context, name, kind, method string, in, out any) error {
	if err := d.call(ctx, name, kind, method, in, out); !errdefs.IsNotImplemented(err) {
		return err
	}
	return nil
}

// lie is the error of an answer that cannot be taken.
func lie(name, kind, method, format string, a ...any) error {
	return fmt.Errorf("plugin %s: %s.%s: "+format, append([]any{name, kind, method}, a...)...)
}

// said reports whether a plugin answered, with an error of its own.
func said(err error) bool {
	var e *plugin.Error
	return errors.As(err, &e) || errdefs.IsNotImplemented(err)
}

// linkName reports whether a text can be the name of a link that has room for
// so many more characters.
func linkName(s string, room int) bool {
	return s != "" && len(s) <= rtnl.MaxName-room && s != "." && s != ".." && !strings.ContainsAny(s, "/:%\x00") &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}
