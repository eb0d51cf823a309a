#!/bin/bash
# SPDX-License-Identifier: MIT
# Build a tiny real Linux guest (kernel + initramfs) out of Debian packages.
#
#   mkguest.sh OUTDIR            -> OUTDIR/vmlinuz   bzImage (as Debian ships it)
#                                   OUTDIR/vmlinux   same kernel, unpacked ELF with a PVH entry (boots faster)
#                                   OUTDIR/initrd.img      busybox + qemu-ga + virtio modules (ext4 is built in)
#                                   OUTDIR/initrd-xfs.img  the same plus xfs.ko
#                                   OUTDIR/MANIFEST  package versions used
#
# Needs: apt-get (with package lists), dpkg-deb, python3; objcopy and lz4 are used when present.
# Needs no root, no compiler, no loop device.  Downloads only Debian packages, with apt-get download,
# into ${GUEST_DEBS:-OUTDIR/debs}; packages already there are not downloaded again.
set -euo pipefail
OUT=${1:?usage: mkguest.sh OUTDIR}
HERE=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$OUT"; OUT=$(cd "$OUT" && pwd)
DEBS=${GUEST_DEBS:-$OUT/debs}; mkdir -p "$DEBS"
TMP=$(mktemp -d "$OUT/.build.XXXXXX"); trap 'rm -rf "$TMP"' EXIT

# linux-image-cloud-amd64 is a metapackage: find the real one.
KPKG=${GUEST_KERNEL_PKG:-$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n1)}
[ -n "$KPKG" ] || { echo "no linux-image-cloud-amd64 in the package lists: apt-get update first" >&2; exit 1; }
# qemu-ga with the libraries it needs; mke2fs (for blank disks) with its own.
PKGS="$KPKG busybox-static qemu-guest-agent libc6 libglib2.0-0 libpcre2-8-0 libudev1 libnuma1 liburing2
      e2fsprogs libext2fs2 libcom-err2 libblkid1 libuuid1"
GET=
for p in $PKGS; do ls "$DEBS/${p}"_*.deb >/dev/null 2>&1 || GET="$GET $p"; done
[ -z "$GET" ] || (cd "$DEBS" && apt-get -q download $GET 2>&1 | grep -v '^W: Download is performed unsandboxed' >&2)
for p in $PKGS; do
    deb=$(ls -t "$DEBS/${p}"_*.deb | head -n1)
    basename "$deb"
    if [ "$p" = "$KPKG" ]; then dpkg-deb -x "$deb" "$TMP/kernel"; else dpkg-deb -x "$deb" "$TMP/root"; fi
done > "$OUT/MANIFEST"

KVER=$(basename "$TMP"/kernel/boot/vmlinuz-*); KVER=${KVER#vmlinuz-}
cp "$TMP/kernel/boot/vmlinuz-$KVER" "$OUT/vmlinuz"; chmod 644 "$OUT/vmlinuz"

KVER=$KVER TMP=$TMP OUT=$OUT HERE=$HERE python3 - <<'PY'
import os, re, shutil, struct, subprocess, stat
tmp, out, here, kver = (os.environ[k] for k in ("TMP", "OUT", "HERE", "KVER"))
root = f"{tmp}/root"

# ---- vmlinux: unpack the LZ4 payload of the bzImage (Debian's cloud kernel has PVH, so QEMU boots the ELF).
bz = open(f"{out}/vmlinuz", "rb").read()
def unpack_kernel():
    # boot protocol: setup_sects at 0x1f1, payload_offset/payload_length at 0x248/0x24c
    sects = bz[0x1f1] or 4
    off, length = struct.unpack_from("<II", bz, 0x248)
    payload = bz[(sects + 1) * 512 + off:][:length]
    magic = payload[:4]
    tool = {b"\x02\x21\x4c\x18": ["lz4", "-dc"], b"\x1f\x8b\x08\x00": ["gzip", "-dc"],
            b"\x28\xb5\x2f\xfd": ["zstd", "-dc"], b"\xfd7zX": ["xz", "-dc"]}.get(magic)
    if not tool or not shutil.which(tool[0]):
        return None
    # the payload is followed by its unpacked size (4 bytes): the tools complain, the data is whole
    r = subprocess.run(tool, input=payload[:-4], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if not r.stdout.startswith(b"\x7fELF"):
        return None
    return r.stdout
elf = unpack_kernel()
if elf:
    p = f"{out}/vmlinux"
    open(p, "wb").write(elf)
    if shutil.which("objcopy"):     # only loadable segments are needed
        subprocess.run(["objcopy", "-S", p], check=False)
else:
    print("note: vmlinux not unpacked (lz4 missing?); vmlinuz still works")

# ---- cpio (newc) writer: device nodes without root, stable output
class Cpio:
    def __init__(self): self.b, self.ino, self.dirs = bytearray(), 1, set()
    def _add(self, name, mode, data=b"", rdev=(0, 0)):
        self.ino += 1
        n = name.encode() + b"\0"
        h = "070701" + "".join("%08X" % v for v in (self.ino, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(n), 0))
        self.b += h.encode() + n; self.b += b"\0" * (-len(self.b) % 4)
        self.b += data; self.b += b"\0" * (-len(self.b) % 4)
    def dir(self, name):
        parts = name.strip("/").split("/")
        for i in range(1, len(parts) + 1):
            d = "/".join(parts[:i])
            if d and d not in self.dirs:
                self.dirs.add(d); self._add(d, 0o40755)
    def file(self, name, data, mode=0o644):
        self.dir(os.path.dirname(name)) if "/" in name else None
        self._add(name, 0o100000 | mode, data)
    def link(self, name, target):
        self.dir(os.path.dirname(name)) if "/" in name else None
        self._add(name, 0o120777, target.encode())
    def node(self, name, kind, major, minor):
        self.dir(os.path.dirname(name)); self._add(name, (0o20000 if kind == "c" else 0o60000) | 0o600, b"", (major, minor))
    def done(self):
        self._add("TRAILER!!!", 0); self.b += b"\0" * (-len(self.b) % 512)
        return bytes(self.b)

# ---- modules: dependency order from modinfo data in the .ko itself
mods = {}
for d, _, fs in os.walk(f"{tmp}/kernel/lib/modules/{kver}"):
    for f in fs:
        if f.endswith(".ko"): mods[f[:-3].replace("-", "_")] = os.path.join(d, f)
def depends(path):
    m = re.search(rb"\0depends=([^\0]*)\0", b"\0" + open(path, "rb").read())
    return [x.decode().replace("-", "_") for x in (m.group(1).split(b",") if m and m.group(1) else [])]
def closure(names):
    order = []
    def visit(n):
        for x in depends(mods[n]): visit(x)
        if n not in order: order.append(n)
    for n in names: visit(n)
    return order
def modbytes(n):
    src, dst = mods[n], f"{tmp}/{n}.ko"
    shutil.copy(src, dst)
    if shutil.which("objcopy"):     # drop BTF, notes and the signature appended to the file
        subprocess.run(["objcopy", "--strip-debug", "-R", ".BTF", "-R", ".comment", dst], check=True)
    return open(dst, "rb").read()

def ldlibs(binary):
    lib = f"{root}/lib/x86_64-linux-gnu:{root}/usr/lib/x86_64-linux-gnu"
    ld = f"{root}/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    r = subprocess.run([ld, "--library-path", lib, "--list", binary], capture_output=True, text=True)
    if r.returncode or "not found" in r.stdout:
        raise SystemExit(f"libraries of {binary} missing:\n{r.stdout}{r.stderr}")
    libs = {}
    for line in r.stdout.splitlines():
        m = re.match(r"\s*(\S+) => (\S+)", line)
        if m:
            if not os.path.realpath(m.group(2)).startswith(os.path.realpath(root)):
                raise SystemExit(f"{binary}: {line.strip()} is not from the packages")
            libs[m.group(1)] = m.group(2)
    return libs

def build():
    c = Cpio()
    for d in ("bin", "sbin", "usr/bin", "usr/sbin", "dev", "proc", "sys", "run", "tmp", "mnt", "root", "etc/qemu", "lib/modules", "lib64", "var"):
        c.dir(d)
    c.link("var/run", "/run"); c.link("var/log", "/run"); c.node("dev/console", "c", 5, 1); c.node("dev/null", "c", 1, 3)
    bb = f"{root}/bin/busybox"
    c.file("bin/busybox", open(bb, "rb").read(), 0o755)
    applets = subprocess.run([bb, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for a in applets:
        if a not in ("busybox", "mke2fs", "fsfreeze", "shutdown", "poweroff", "reboot", "halt"): c.link(f"bin/{a}", "busybox")
    for a in ("poweroff", "reboot", "halt", "fsfreeze"): c.link(f"bin/{a}", "busybox")
    # without it mke2fs waits 5 s and makes an "ext4" without its features
    c.file("etc/mke2fs.conf", open(f"{root}/etc/mke2fs.conf", "rb").read())
    libs = {}
    for b, dst in ((f"{root}/usr/sbin/qemu-ga", "usr/sbin/qemu-ga"), (f"{root}/sbin/mke2fs", "sbin/mke2fs")):
        c.file(dst, open(b, "rb").read(), 0o755); libs.update(ldlibs(b))
    for so, p in sorted(libs.items()):
        c.file(f"lib/{so}", open(p, "rb").read(), 0o755)
    c.file("lib64/ld-linux-x86-64.so.2", open(f"{root}/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "rb").read(), 0o755)
    # glibc looks in these places
    c.link("lib/x86_64-linux-gnu", "."); c.link("usr/lib", "../lib")
    order = closure(["virtio_pci", "virtio_console", "virtio_blk", "sd_mod", "virtio_scsi"])
    early = closure(["virtio_pci", "virtio_console", "virtio_blk"])
    c.file("lib/modules/early", (" ".join(early)).encode())
    c.file("lib/modules/all", (" ".join(order)).encode())
    for n in order: c.file(f"lib/modules/{n}.ko", modbytes(n))
    for d, _, fs in os.walk(f"{here}/rootfs"):
        for f in sorted(fs):
            p = os.path.join(d, f); c.file(os.path.relpath(p, f"{here}/rootfs"), open(p, "rb").read(), 0o755)
    return c.done()

def xfs():
    c = Cpio(); c.dirs |= {"lib", "lib/modules"}
    order = closure(["xfs"])
    c.file("lib/modules/xfs.list", (" ".join(order)).encode())
    for n in order: c.file(f"lib/modules/{n}.ko", modbytes(n))
    return c.done()

base, x = build(), xfs()
for name, data in (("initrd.img", base), ("initrd-xfs.img", base + x)):
    open(f"{out}/{name}", "wb").write(data)
PY
ls -l "$OUT"/vmlinu* "$OUT"/initrd*.img
