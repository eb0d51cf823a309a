#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Makes the Linux guest of the tests out of Debian packages: a kernel, busybox and qemu-ga; and of writer.cpp and rootfs/, beside
# this. It boots in some seconds without KVM.
#
#   tests/guest/build_guest.sh CACHE
#
#   CACHE/vmlinux          the kernel unpacked: QEMU starts it by its PVH entry, without decompressor and BIOS
#   CACHE/initrd.img       all the rest, virtio drivers among it; ext4 is in the kernel
#   CACHE/initrd-xfs.img   the same with the drivers of XFS
#   CACHE/debs/            the packages; once they are there nothing is downloaded
#
# Nothing is done where the guest is there and its sources are unchanged. Any number may be called at once:
# one builds, the others wait for it. Needs the packages of scripts/install-packages build demo, and no root.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
install_packages=$here/../../scripts/install-packages
lock_limit=600

sources() {
    find "$here/build_guest.sh" "$here/initramfs.py" "$here/writer.cpp" "$here/rootfs" -type f -print0 | LC_ALL=C sort -z
}

# Of what the guest is made of: with another stamp it is made anew.
stamp() {
    "$install_packages" --list guest
    sources | xargs -0 cat | sha256sum
    sources | xargs -0 stat -c %a
}

fetch_packages() {
    [ "$("$install_packages" --list guest)" != "$(cat "$cache/debs/.complete" 2>/dev/null)" ] || return 0
    rm -rf "$cache/debs"
    mkdir "$cache/debs"
    "$install_packages" --download "$cache/debs" guest
    "$install_packages" --list guest > "$cache/debs/.complete"
}

# The kernel into $work/kernel, everything else into $work/root.
unpack_packages() {
    local deb
    for deb in "$cache"/debs/*.deb; do
        case ${deb##*/} in
            linux-image-*) dpkg-deb -x "$deb" "$work/kernel";;
            *) dpkg-deb -x "$deb" "$work/root";;
        esac
    done
}

build() {
    rm -rf "$cache"/.build.*  # what a build that was killed has left
    work=$(mktemp -d "$cache/.build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    unpack_packages
    mkdir "$work/out"
    cp -r "$here/rootfs" "$work/overlay"
    "${CXX:-g++}" -std=c++17 -Os -s -static -Wall -Wextra -Werror -o "$work/overlay/bin/writer" "$here/writer.cpp"
    /usr/bin/python3 "$here/initramfs.py" "$work/kernel" "$work/root" "$work/overlay" "$work/out"
    # A guest that runs has read its files already; one that starts finds either the old or the new ones.
    mv "$work"/out/* "$cache/"
    stamp > "$cache/stamp"
}

cache=${1:?"usage: build_guest.sh CACHE"}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
exec 9> "$cache/lock"
flock -w "$lock_limit" 9 || { echo "another build in $cache has not ended for $lock_limit s" >&2; exit 1; }
[ "$(stamp)" != "$(cat "$cache/stamp" 2>/dev/null)" ] || exit 0
rm -f "$cache/stamp"
fetch_packages
build
