#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Makes kernel and initramfs of the test guest out of unpacked Debian packages; called by build_guest.sh.

    initramfs.py KERNEL ROOT OVERLAY OUT

KERNEL and ROOT: the unpacked packages; OVERLAY: the project's own files for the guest; OUT: for the images.
It needs no root: the archives are written here, device nodes and all.
"""
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys

# The drivers without which there is no agent and no disk; then those that may come later.
EARLY_DRIVERS = ["virtio_pci", "virtio_console", "virtio_blk"]
LATE_DRIVERS = ["sd_mod", "virtio_scsi", "pvpanic_pci"]
XFS_DRIVERS = ["xfs"]

DIRECTORIES = ["bin", "dev", "etc/qemu", "lib/modules", "lib64", "mnt", "proc", "root", "run", "sbin", "sys",
               "tmp", "usr/bin", "usr/sbin", "var"]
AGENT = "usr/sbin/qemu-ga"
LOADER = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
LIBRARY_DIRECTORIES = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]


def run(*argv, **options):
    return subprocess.run([str(a) for a in argv], check=True, timeout=120, **options)


def unpack_kernel(image):
    """The ELF file in a bzImage (Documentation/x86/boot.rst: setup_sects, payload_offset, payload_length)."""
    setup_sectors = image[0x1f1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[(setup_sectors + 1) * 512 + offset:][:length]
    if not payload.startswith(b"\x02\x21\x4c\x18"):
        raise SystemExit("the kernel is not compressed with LZ4 any more")
    # Four bytes with the unpacked size follow the data. lz4 complains of the missing mark of the end.
    lz4 = subprocess.run(["lz4", "-dc"], input=payload[:-4], capture_output=True, timeout=120, check=False)
    elf = lz4.stdout
    if not elf.startswith(b"\x7fELF"):
        raise SystemExit("cannot unpack the kernel")
    return elf


class Archive:
    """An initramfs in the format newc of cpio."""

    def __init__(self):
        self.bytes, self.inode, self.directories = bytearray(), 0, set()

    def _add(self, path, mode, data=b"", device=(0, 0)):
        self.inode += 1
        name = path.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        self.bytes += b"070701" + "".join(f"{field:08X}" for field in fields).encode() + name
        self._pad(4)
        self.bytes += data
        self._pad(4)

    def _pad(self, unit):
        self.bytes += b"\0" * (-len(self.bytes) % unit)

    def directory(self, path):
        for parent in reversed([pathlib.PurePath(path), *pathlib.PurePath(path).parents]):
            if str(parent) != "." and parent not in self.directories:
                self.directories.add(parent)
                self._add(str(parent), 0o40755)

    def file(self, path, data, mode=0o644):
        self.directory(os.path.dirname(path))
        self._add(path, 0o100000 | mode, data)

    def link(self, path, target):
        self.directory(os.path.dirname(path))
        self._add(path, 0o120777, target.encode())

    def character_device(self, path, major, minor):
        self.directory(os.path.dirname(path))
        self._add(path, 0o20600, device=(major, minor))

    def finished(self):
        self._add("TRAILER!!!", 0)
        self._pad(512)
        return bytes(self.bytes)


class Drivers:
    """The kernel's modules."""

    def __init__(self, kernel):
        self.paths = {path.stem.replace("-", "_"): path for path in kernel.glob("lib/modules/**/*.ko")}

    def _needs(self, name):
        found = re.search(rb"\0depends=([^\0]*)\0", self.paths[name].read_bytes())
        return found[1].decode().replace("-", "_").split(",") if found and found[1] else []

    def in_order(self, names):
        """They and what they need, each after what it needs."""
        order = []
        for name in names:
            order += [needed for needed in self.in_order(self._needs(name)) + [name] if needed not in order]
        return order

    def stripped(self, name, work):
        copy = work / (name + ".ko")
        shutil.copy(self.paths[name], copy)
        run("objcopy", "--strip-debug", "-R", ".BTF", "-R", ".comment", copy)
        return copy.read_bytes()

    def add_to(self, archive, names, work):
        for name in names:
            archive.file(f"lib/modules/{name}.ko", self.stripped(name, work))


def libraries(root, program):
    """{name: path} of the shared libraries of a program, none of them the host's."""
    path = ":".join(str(root / directory) for directory in LIBRARY_DIRECTORIES)
    listed = run(root / LOADER, "--library-path", path, "--list", program, capture_output=True, text=True)
    found = dict(re.findall(r"^\s*(\S+) => (\S+)", listed.stdout, re.MULTILINE))
    for name, target in found.items():
        if not pathlib.Path(target).resolve().is_relative_to(root.resolve()):
            raise SystemExit(f"{program}: {name} is not in the packages")
    return found


def add_agent(archive, root):
    archive.file(AGENT, (root / AGENT).read_bytes(), 0o755)
    for name, path in sorted(libraries(root, root / AGENT).items()):
        archive.file(f"lib/{name}", pathlib.Path(path).read_bytes(), 0o755)
    archive.file("lib64/ld-linux-x86-64.so.2", (root / LOADER).read_bytes(), 0o755)
    # Where glibc looks for libraries.
    archive.link("lib/x86_64-linux-gnu", ".")
    archive.link("usr/lib", "../lib")


def add_busybox(archive, root):
    busybox = root / "bin/busybox"
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    for applet in run(busybox, "--list", capture_output=True, text=True).stdout.split():
        if applet != "busybox":
            archive.link(f"bin/{applet}", "busybox")


def add_overlay(archive, overlay):
    for path in sorted(path for path in overlay.rglob("*") if path.is_file()):
        archive.file(str(path.relative_to(overlay)), path.read_bytes(), 0o755)


def base_archive(drivers, root, overlay, work):
    archive = Archive()
    for directory in DIRECTORIES:
        archive.directory(directory)
    archive.link("var/run", "/run")
    archive.link("var/log", "/run")
    archive.character_device("dev/console", 5, 1)
    archive.character_device("dev/null", 1, 3)
    add_busybox(archive, root)
    add_agent(archive, root)
    early = drivers.in_order(EARLY_DRIVERS)
    late = [name for name in drivers.in_order(LATE_DRIVERS) if name not in early]
    archive.file("lib/modules/early", " ".join(early).encode())
    archive.file("lib/modules/late", " ".join(late).encode())
    drivers.add_to(archive, early + late, work)
    add_overlay(archive, overlay)
    return archive.finished()


def xfs_archive(drivers, work):
    """To be appended: the kernel unpacks one archive after the other."""
    archive = Archive()
    archive.directories |= {pathlib.PurePath("lib"), pathlib.PurePath("lib/modules")}
    order = drivers.in_order(XFS_DRIVERS)
    archive.file("lib/modules/xfs", " ".join(order).encode())
    drivers.add_to(archive, order, work)
    return archive.finished()


def main(kernel, root, overlay, out):
    work = out.parent
    [image] = kernel.glob("boot/vmlinuz-*")
    (out / "vmlinux").write_bytes(unpack_kernel(image.read_bytes()))
    run("objcopy", "-S", out / "vmlinux")  # QEMU reads the file at each start: only what is loaded is needed
    drivers = Drivers(kernel)
    base, xfs = base_archive(drivers, root, overlay, work), xfs_archive(drivers, work)
    (out / "initrd.img").write_bytes(base)
    (out / "initrd-xfs.img").write_bytes(base + xfs)


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:5]))
