#!/bin/bash
# Builds the guest that the tests boot, from distribution packages alone: the distribution's virtual
# machine kernel, busybox and syslinux. Nothing is mounted and nothing needs root.
#
#   tests/guest/build.sh OUTDIR
#
# leaves in OUTDIR
#   guest.qcow2  guest.raw   a disk: partition 1 FAT with syslinux, kernel and ramdisk; partition 2 ext4, the root disk
#   vmlinuz  initrd          the same kernel and ramdisk, and
#   rootfs.img               the same root file system without a partition table (nova's aki, ari and ami)
#   SHA256SUMS               of the above
# A second call with the same scripts returns at once. What the guest prints is said in `init` beside this file.
set -euo pipefail

out=${1:?usage: build.sh OUTDIR}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)
die() { echo "guest: $*" >&2; exit 1; }

exec 9>"$out/.lock"
flock 9
key=$(cat "$here/build.sh" "$here/init" "$here/udhcpc" /etc/debian_version | sha256sum | cut -d' ' -f1)
if [ "$(cat "$out/.key" 2>/dev/null)" = "$key" ] && (cd "$out" && sha256sum --quiet -c SHA256SUMS) 2>/dev/null; then
  exit 0
fi
rm -f "$out/.key"

for tool in busybox syslinux mcopy mkfs.vfat mke2fs sfdisk cpio gzip xz zstd qemu-img dpkg-deb; do
  command -v $tool >/dev/null || PATH=$PATH:/sbin:/usr/sbin command -v $tool >/dev/null || die "$tool is missing: run tests/install.sh test"
done
PATH=$PATH:/sbin:/usr/sbin
work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
# One moment for every time stamp, one value for every identifier: the same packages give the same bytes.
export SOURCE_DATE_EPOCH=1700000000 E2FSPROGS_FAKE_TIME=1700000000 TZ=UTC
fs_uuid=6a0e6d1c-7f6b-4b53-9a3c-68796e6f7661

# --- the kernel: Debian's cloud kernel, or Ubuntu's for virtual machines
meta= kernel=
for candidate in linux-image-cloud-amd64 linux-image-virtual; do
  kernel=$(apt-cache depends $candidate 2>/dev/null | awk '/Depends: linux-image-[0-9]/ {print $2; exit}') || true
  [ -n "$kernel" ] && { meta=$candidate; break; }
done
[ -n "$kernel" ] || die "apt knows no kernel package: run apt-get update"
packages=$kernel
[ $meta = linux-image-virtual ] && packages="$kernel ${kernel/linux-image/linux-modules}"
# apt's sandbox user can't write here; the download works all the same, with a warning.
apt-get download -qq $packages 2>apt.err || { apt-get update -qq && apt-get download -qq $packages 2>apt.err; } ||
  die "can't download $packages: $(tail -1 apt.err)"
mkdir tree
for deb in ./*.deb; do dpkg-deb -x "$deb" tree; done
[ -d tree/lib/modules ] || { mkdir -p tree/lib; mv tree/usr/lib/modules tree/lib/; }
version=$(ls tree/lib/modules)
modules=tree/lib/modules/$version
find "$modules" -name '*.ko.xz' -exec xz -d {} +
find "$modules" -name '*.ko.zst' -exec zstd -q -d --rm {} +
install -m 644 "tree/boot/vmlinuz-$version" vmlinuz

# --- the ramdisk: busybox, the modules that a KVM guest needs, and init
mkdir -p rd/{bin,dev,proc,sys,tmp,etc/acpi,root,config,lib/modules,usr/share/udhcpc}
cp "$(readlink -f "$(command -v busybox)")" rd/bin/busybox
for applet in $(busybox --list); do [ "$applet" = busybox ] || ln -s busybox "rd/bin/$applet"; done
busybox depmod -b tree "$version"
# Dependencies first, each module once: the guest loads them in this order without looking anything up.
awk -v wanted="virtio_pci virtio_blk virtio_net virtio_scsi virtio_balloon virtio-rng virtio_console \
  ata_piix ahci sd_mod sr_mod isofs nls_ascii nls_utf8 nls_cp437 nls_iso8859-1 vfat crc32c-intel crc32c_generic crc32c-cryptoapi ext4 \
  button evdev af_packet e1000 8139cp i6300esb" '
  function name(path) { sub(/.*\//, "", path); sub(/\.ko$/, "", path); return path }
  function add(path,   list, n, i) {
    if (path in done) return
    done[path] = 1
    n = split(needs[path], list, " ")
    for (i = n; i >= 1; i--) add(list[i])
    print path
  }
  { path = $1; sub(/:$/, "", path); $1 = ""; needs[path] = $0; by_name[name(path)] = path }
  END { n = split(wanted, list, " "); for (i = 1; i <= n; i++) if (list[i] in by_name) add(by_name[list[i]]) }
' "$modules/modules.dep" >order
for must in virtio_pci virtio_blk virtio_net ext4 isofs ata_piix sr_mod button evdev; do
  grep -q "/$must.ko" order "$modules/modules.builtin" || die "$kernel has no module $must"
done
while read -r module; do
  cp "$modules/$module" rd/lib/modules/
  basename "$module"
done <order >rd/lib/modules/order
cp "$here/init" rd/init
cp "$here/udhcpc" rd/usr/share/udhcpc/default.script
chmod 755 rd/init rd/usr/share/udhcpc/default.script
find rd -exec touch -h -d @$SOURCE_DATE_EPOCH {} +
(cd rd && find . -print0 | LC_ALL=C sort -z | cpio --quiet --null -o -H newc -R 0:0 --reproducible) | gzip -n -6 >initrd

# --- the root file system: empty, as the ramdisk holds the programs and init writes what must survive
root_fs() { # FILE MiB
  truncate -s "$2M" "$1"
  mke2fs -q -F -t ext4 -b 1024 -m 0 -O ^64bit,^metadata_csum,^resize_inode -J size=1 -L hypernova -U $fs_uuid \
    -E hash_seed=$fs_uuid,root_owner=0:0,lazy_itable_init=0 "$1"
}
root_fs rootfs.img 16

# --- the disk: MBR, FAT with syslinux at 1 MiB, the root file system behind it
boot_mib=$(( ($(stat -c %s vmlinuz) + $(stat -c %s initrd)) / 1048576 + 6 ))
truncate -s ${boot_mib}M boot.img
mkfs.vfat -F 16 -n BOOT -i 68796e6f --invariant boot.img >/dev/null
# no_timer_check: under emulation on a busy machine the kernel else may take the timer for broken, and stop.
cat >syslinux.cfg <<'CFG'
SERIAL 0 115200
DEFAULT guest
PROMPT 0
TIMEOUT 0
LABEL guest
  LINUX vmlinuz
  INITRD initrd
  APPEND console=tty0 console=ttyS0,115200 root=/dev/vda2 quiet loglevel=4 tsc=unstable no_timer_check mitigations=off
CFG
mcopy -i boot.img vmlinuz initrd syslinux.cfg ::
syslinux --install boot.img
truncate -s $((boot_mib + 1 + 24))M guest.raw
printf 'label-id: 0x68796e6f\n2048,%dM,0e,*\n,,83\n' $boot_mib | sfdisk -q guest.raw
dd if=boot.img of=guest.raw bs=1M seek=1 conv=notrunc,sparse status=none
root_fs part2.img 24
dd if=part2.img of=guest.raw bs=1M seek=$((boot_mib + 1)) conv=notrunc,sparse status=none
mbr=/usr/lib/SYSLINUX/mbr.bin
[ -f $mbr ] || mbr=/usr/lib/syslinux/mbr/mbr.bin
dd if=$mbr of=guest.raw bs=440 count=1 conv=notrunc status=none
qemu-img convert -f raw -O qcow2 guest.raw guest.qcow2

files="guest.qcow2 guest.raw vmlinuz initrd rootfs.img"
sha256sum $files >SHA256SUMS
mv -f $files SHA256SUMS "$out/"
echo "$key" >"$out/.key"
