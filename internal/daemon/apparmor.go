package daemon

import "github.com/wherry-engine/wherry/internal/linux/apparmor"

// appArmorProfile is the profile of containers whose user names none; dockerd's
// name, so that both engines of a machine share it.
const appArmorProfile = "docker-default"

// appArmor gives that profile where the kernel has AppArmor, "" where it does
// not. The error says why containers run unconfined nevertheless.
func appArmor() (string, error) {
	if !apparmor.Enabled() {
		return "", nil
	}
	if err := loadAppArmor(); err != nil {
		return "", err
	}
	return appArmorProfile, nil
}

// loadAppArmor loads the profile unless the kernel has it.
func loadAppArmor() error {
	return apparmor.Ensure(appArmorProfile, apparmor.Profile(appArmorProfile))
}
