package seccomp

import (
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// cacheSize bounds each of the cache's maps. A map that is full is emptied: a
// machine that uses so many different filters pays a compilation now and then.
const cacheSize = 128

// Cache keeps resolved profiles and compiled programs. The zero value is
// ready; it may be used by several goroutines. What it returns is shared and
// must not be changed.
type Cache struct {
	mu       sync.Mutex
	profiles map[string]*specs.LinuxSeccomp
	byPtr    map[*specs.LinuxSeccomp]compiled
	bySum    map[[sha256.Size]byte]compiled
}

type compiled struct {
	program []unix.SockFilter
	flags   uint
}

// Default is Default, resolved once per capability set.
func (c *Cache) Default(caps []string) (*specs.LinuxSeccomp, error) {
	return c.resolve("", caps, func() (*specs.LinuxSeccomp, error) { return Default(caps) })
}

// Load is Load, resolved once per text and capability set.
func (c *Cache) Load(profile []byte, caps []string) (*specs.LinuxSeccomp, error) {
	sum := sha256.Sum256(profile)
	return c.resolve(string(sum[:]), caps, func() (*specs.LinuxSeccomp, error) { return Load(profile, caps) })
}

func (c *Cache) resolve(name string, caps []string, load func() (*specs.LinuxSeccomp, error)) (*specs.LinuxSeccomp, error) {
	sorted := slices.Clone(caps)
	slices.Sort(sorted)
	key := name + "\x00" + strings.Join(slices.Compact(sorted), ",")
	c.mu.Lock()
	s, ok := c.profiles[key]
	c.mu.Unlock()
	if ok {
		return s, nil
	}
	s, err := load()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if have, ok := c.profiles[key]; ok {
		return have, nil // one pointer per profile keeps Compile fast
	}
	if c.profiles == nil || len(c.profiles) >= cacheSize {
		c.profiles = map[string]*specs.LinuxSeccomp{}
	}
	c.profiles[key] = s
	return s, nil
}

// Compile is Compile, done once per profile; fastest for a pointer that Default
// or Load of this cache returned, which must not have been changed since.
func (c *Cache) Compile(s *specs.LinuxSeccomp) ([]unix.SockFilter, uint, error) {
	if s == nil {
		return nil, 0, nil
	}
	c.mu.Lock()
	out, ok := c.byPtr[s]
	ours := !ok && c.owns(s)
	c.mu.Unlock()
	if ok {
		return out.program, out.flags, nil
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, 0, err
	}
	sum := sha256.Sum256(text)
	c.mu.Lock()
	out, ok = c.bySum[sum]
	c.mu.Unlock()
	if !ok {
		if out.program, out.flags, err = Compile(s); err != nil {
			return nil, 0, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bySum == nil || len(c.bySum) >= cacheSize {
		c.bySum = map[[sha256.Size]byte]compiled{}
	}
	c.bySum[sum] = out
	if ours {
		if c.byPtr == nil || len(c.byPtr) >= cacheSize {
			c.byPtr = map[*specs.LinuxSeccomp]compiled{}
		}
		c.byPtr[s] = out
	}
	return out.program, out.flags, nil
}

// owns tells profiles of this cache from callers' own, which may change while
// their address stays.
func (c *Cache) owns(s *specs.LinuxSeccomp) bool {
	for _, have := range c.profiles {
		if have == s {
			return true
		}
	}
	return false
}
