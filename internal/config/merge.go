package config

import "slices"

// Merge is what SIGHUP does: it returns running with the reloadable settings of
// next. reloaded names those that changed, pending those that changed too but
// take effect only after a restart. Neither argument is altered.
func Merge(running, next *Config) (merged *Config, reloaded, pending []string) {
	out := *running
	out.Warnings = next.Warnings
	for _, o := range options {
		if o.class != served || o.key == "" {
			continue
		}
		was, is := o.bind(running), o.bind(next)
		if was.String() == is.String() {
			continue
		}
		if !o.reload {
			pending = append(pending, o.key)
			continue
		}
		o.bind(&out).take(is)
		reloaded = append(reloaded, o.key)
	}
	slices.Sort(reloaded)
	slices.Sort(pending)
	return &out, reloaded, pending
}
