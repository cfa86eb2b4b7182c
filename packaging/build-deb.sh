#!/bin/sh
# Builds build/identityd_VERSION_ARCH.deb from the environment that `make venv` made. Needs dpkg-deb.
# The same sources, lock and Python give the same bytes: every date is SOURCE_DATE_EPOCH, by default that of the
# latest commit. DEB_LEVEL is how hard to compress, 1 (at once) to 9.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${1:-build}
command -v dpkg-deb >/dev/null || { echo "build-deb.sh needs dpkg-deb, of Debian's package dpkg" >&2; exit 2; }
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}"
export SOURCE_DATE_EPOCH
umask 022

mkdir -p "$out"
work=$(mktemp -d "$out/deb.XXXXXX")
trap 'rm -rf "$work"' EXIT
tree=$work/tree
mkdir -p "$tree/DEBIAN"

version=$("$python" -m hatchling version)
architecture=$(dpkg --print-architecture)
minor=$("$python" -c 'import sys; print(sys.version_info[1])')

# --- code ---------------------------------------------------------------------------------------------
"$python" -m hatchling build -t wheel -d "$work" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
"$python" packaging/assemble.py "$work"/identityd-*.whl "$tree/usr/lib/identityd" >"$work/bundled"

launcher() { # function, path
    mkdir -p "$(dirname "$tree$2")"
    printf '#!/usr/bin/python3 -IB\nimport sys\n\nsys.path.insert(0, "/usr/lib/identityd")\nfrom adapters.__main__ import %s\n\nsys.exit(%s())\n' "$1" "$1" >"$tree$2"
    chmod 755 "$tree$2"
}
launcher identityd /usr/bin/identityd
# Not in /usr/bin: those names are the vendor's, and update-alternatives fills them where the vendor does not.
launcher aziotctl /usr/lib/identityd/bin/aziotctl
launcher iotedge /usr/lib/identityd/bin/iotedge

# --- system -------------------------------------------------------------------------------------------
put() { install -D -m 644 "$1" "$tree$2"; }
for unit in config/systemd/identityd*.service config/systemd/identityd*.socket; do
    put "$unit" "/usr/lib/systemd/system/$(basename "$unit")"
done
put config/systemd/sysusers.conf /usr/lib/sysusers.d/identityd.conf
put config/systemd/tmpfiles.conf /usr/lib/tmpfiles.d/identityd.conf
put config/systemd/default /etc/default/identityd

# --- documentation ------------------------------------------------------------------------------------
doc=/usr/share/doc/identityd
put LICENSE $doc/copyright
put README.md $doc/README.md
gzip -9nc CHANGELOG.md >"$work/changelog.gz"
put "$work/changelog.gz" $doc/changelog.gz
put "$work/bundled" $doc/bundled-packages
find docs -name '*.md' | while read -r page; do put "$page" "$doc/$page"; done
put config/default.toml $doc/examples/config.toml
for example in config/systemd/examples/* config/*.yml config/*.json; do
    if [ -f "$example" ]; then put "$example" "$doc/examples/$(basename "$example")"; fi
done

# --- package ------------------------------------------------------------------------------------------
size=$(du -sk --apparent-size "$tree" | cut -f1)
cat >"$tree/DEBIAN/control" <<CONTROL
Package: identityd
Version: $version
Architecture: $architecture
Maintainer: identityd maintainers <identityd@localhost>
Installed-Size: $size
Depends: python3 (>= 3.$minor), python3 (<< 3.$((minor + 1))), libc6 (>= 2.34), ca-certificates, procps, systemd | systemd-standalone-sysusers, systemd | systemd-standalone-tmpfiles
Section: net
Priority: optional
Description: device identity from the cloud, kept, renewed and replayable
 Registers a device with Azure Device Provisioning Service, keeps the identity
 certificate that DPS issues, renews it in time, and serves the local sockets of
 Azure IoT Identity Service. Every decision is journalled and can be replayed.
CONTROL
echo /etc/default/identityd >"$tree/DEBIAN/conffiles"
for script in postinst prerm postrm; do install -m 755 "packaging/debian/$script" "$tree/DEBIAN/$script"; done
(cd "$tree" && find usr etc -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
chmod 644 "$tree/DEBIAN/control" "$tree/DEBIAN/conffiles" "$tree/DEBIAN/md5sums"

find "$tree" -print0 | xargs -0 touch --no-dereference --date="@$SOURCE_DATE_EPOCH"
package=$out/identityd_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz "-z${DEB_LEVEL:-6}" --threads-max=1 --build "$tree" "$package" >/dev/null
echo "$package"
