package bootstrap

import (
	"archive/tar"
	"path"
	"strings"
)

const (
	scriptName = "bootstrap.sh"
	policyName = "usr/sbin/policy-rc.d"
)

// script installs the packages in the order that a system without any needs:
// first those that others take for granted.
const script = `#!/bin/sh
set -e
cd /var/cache/apt/archives
touch /var/lib/dpkg/available /etc/shells /etc/fstab
[ -s /var/lib/dpkg/status ] || touch /var/lib/dpkg/status
[ -e /etc/localtime ] || ln -sf /usr/share/zoneinfo/UTC /etc/localtime
if [ ! -e /usr/bin/awk ]; then made_awk=1; ln -sf mawk /usr/bin/awk; fi
for p in base-passwd base-files dpkg libc6 perl-base mawk debconf; do
	for f in ${p}_*.deb; do
		[ -e "$f" ] && dpkg --force-unsafe-io --force-depends --install "$f"
	done
done
dpkg --force-unsafe-io --force-depends --force-overwrite --force-confold --skip-same-version --unpack BASE
dpkg --force-unsafe-io --force-confold --skip-same-version --configure --pending --force-configure-any --force-depends
if [ -n "REST" ]; then
	dpkg --force-unsafe-io --force-depends --force-confold --unpack REST
	dpkg --force-unsafe-io --force-confold --configure --pending --force-configure-any --force-depends
fi
dpkg --configure --pending
bad=$(dpkg --audit)
if [ -n "$bad" ]; then echo "$bad"; exit 1; fi
rm -f /var/cache/apt/archives/*.deb
`

// policy keeps services from being started.
const policy = "#!/bin/sh\nexit 101\n"

// settings are the files that the packages do not bring.
func (m *maker) settings(s *selection) map[string]string {
	names := func(list []*pkg) string {
		var out []string
		for _, p := range list {
			out = append(out, path.Base(p.filename))
		}
		return strings.Join(out, " ")
	}
	sources := "deb " + m.Mirror + " " + m.suite + " main\n"
	if m.security != "" && m.suite != "sid" && m.suite != "unstable" {
		sources += "deb " + m.Mirror + " " + m.suite + "-updates main\ndeb " + m.security + " " + m.suite + "-security main\n"
	}
	return map[string]string{
		scriptName:              strings.NewReplacer("BASE", names(s.base), "REST", names(s.rest)).Replace(script),
		policyName:              policy,
		"etc/apt/sources.list":  sources,
		"var/lib/dpkg/status":   "",
		"var/lib/dpkg/cmethopt": "apt apt\n",
	}
}

func linkTo(name, target string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}
}
