"""What of Debian's packages goes into the guest. Tables only; a change here makes a new image by itself."""

from __future__ import annotations

PACKAGES = (
    # The shell and its programs; busybox also stands in for what is not listed here.
    *("bash", "dash", "coreutils", "busybox-static", "util-linux", "mount", "procps", "grep", "sed", "findutils"),
    # Python with its standard library, and what ctypes and pyudev load.
    *("python3", "libpython3-stdlib", "libudev1", "libc-bin"),
    # Modules, PCI, file systems, and the device mapper (a disk that is in use by it must be refused).
    *("kmod", "pciutils", "e2fsprogs", "dmsetup"),
    # The kernel's client of NBD: what we serve becomes a disk of the guest.
    "nbd-client",
)
"""The kernel's package comes from the machine's table."""

DEVELOPMENT_PACKAGES = ("libpython3-dev", "libc6-dev", "linux-libc-dev")
"""Headers and start files, to compile for the guest."""

MODULES = (
    *("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_scsi", "virtio_console", "virtio-rng"),
    *("virtio_balloon", "virtio_input", "vfio-pci", "vfio_iommu_type1", "uio_pci_generic", "iommufd"),
    *("nvme", "e1000", "e1000e", "xhci-pci", "dm-mod", "loop", "null_blk", "nbd", "ext4"),
    *("overlay", "crc32c_generic", "crc32c-intel", "9p", "9pnet_virtio", "qemu_fw_cfg"),
)
"""Kept with everything they depend on; one that this kernel lacks or has built in is passed over."""

MODULE_INDEXES = ("modules.order", "modules.builtin", "modules.builtin.modinfo")

DROP = (
    *("boot/", "dev/", "proc/", "sys/", "var/lib/", "var/cache/", "var/log/", "etc/init", "etc/cron", "etc/systemd/"),
    *("etc/pam", "etc/security/", "etc/alternatives/", "etc/kernel/", "etc/apt/", "etc/dpkg/"),
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/bug"),
    *("usr/share/bash-completion", "usr/share/zsh", "usr/share/perl", "usr/share/common-licenses", "usr/share/gcc"),
    *("usr/share/initramfs-tools", "usr/share/debconf", "usr/share/readline", "usr/share/i18n", "usr/share/zoneinfo"),
    *("usr/lib/klibc", "usr/lib/udev", "usr/lib/systemd", "usr/lib/locale", "usr/lib/valgrind", "usr/lib/usrmerge"),
    *("usr/lib/init", "usr/lib/modprobe.d/", "usr/lib/modules/", "usr/lib/TRIPLET/perl", "usr/lib/TRIPLET/libperl"),
    *("usr/lib/TRIPLET/gconv/", "usr/lib/TRIPLET/security/", "usr/lib/TRIPLET/krb5", "usr/lib/TRIPLET/engines-3"),
    *("usr/lib/TRIPLET/libsepol", "usr/lib/TRIPLET/libsemanage", "usr/lib/TRIPLET/libmvec", "usr/lib/TRIPLET/libpam"),
    *("usr/bin/perl", "usr/bin/dpkg", "usr/bin/deb", "usr/bin/update-", "usr/bin/localedef", "usr/bin/iconv"),
    *("usr/bin/udevadm", "usr/bin/systemd", "usr/sbin/iconv", "usr/sbin/update-initramfs", "usr/sbin/mkinitramfs"),
    *("usr/lib/python3.NN/" + name for name in ("test/", "idlelib/", "lib2to3/", "ensurepip/", "turtle", "tkinter/")),
    *("usr/lib/python3.NN/" + name for name in ("pydoc_data/", "config-", "lib-dynload/_testcapi", "__pycache__")),
)
"""Beginnings of paths, after `/bin` and its like were merged into `/usr`; NN is any number."""

BUSYBOX = (
    *("awk", "cmp", "devmem", "diff", "gzip", "gunzip", "hexdump", "hostname", "ifconfig", "ip", "killall", "less"),
    *("ls", "nc", "ping", "poweroff", "reboot", "sh", "tar", "vi", "wget", "which", "xxd", "zcat"),
)
"""Commands that busybox does where no package has brought one."""

ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "group": "root:x:0:\ntty:x:5:\ndisk:x:6:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost hwloop\n::1 localhost\n",
    "hostname": "hwloop\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}

FOLDERS = ("dev", "proc", "sys", "run", "tmp", "root", "share", "mnt", "etc", "var/tmp", "usr/local/bin")

MERGED = ("bin", "sbin", "lib", "lib64")
"""Folders of the root that are links into `/usr`; packages of this age still have some files in them."""
