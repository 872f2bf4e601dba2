package space

import (
	"fmt"

	"github.com/moby/buildkit/cache/metadata"
	bolt "go.etcd.io/bbolt"
)

// The words of BuildKit's cache for its records.
const (
	keyCommitted = "snapshot.committed"
	keyPolicy    = "cache.cachePolicy"
	keyDeleted   = "cache.deleted"
	keyEqual     = "cache.equalMutable" // of a finished record: the one that still has its files
	retain       = 1                    // a record that stays when nobody uses it
)

// DropUnfinished marks what a killed engine's builds were writing, so that the
// cache removes it when it opens the records.
func DropUnfinished(records *metadata.Store) error {
	items, err := records.All()
	if err != nil {
		return fmt.Errorf("read the records of the build cache: %w", err)
	}
	type state struct {
		committed bool
		policy    int
		equal     string
	}
	states, kept := map[string]*state{}, map[string]bool{}
	for _, item := range items {
		var s state
		for key, to := range map[string]any{keyCommitted: &s.committed, keyPolicy: &s.policy, keyEqual: &s.equal} {
			if v := item.Get(key); v != nil {
				if err := v.Unmarshal(to); err != nil {
					return fmt.Errorf("read the record %s of the build cache: %w", item.ID(), err)
				}
			}
		}
		states[item.ID()] = &s
		kept[s.equal] = true
	}
	for _, item := range items {
		if s := states[item.ID()]; s.committed || s.policy == retain || kept[item.ID()] {
			continue
		}
		gone, err := metadata.NewValue(true)
		if err != nil {
			return err
		}
		if err := item.Update(func(b *bolt.Bucket) error { return item.SetValue(b, keyDeleted, gone) }); err != nil {
			return fmt.Errorf("mark the record %s of the build cache: %w", item.ID(), err)
		}
	}
	return nil
}
