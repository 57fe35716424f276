#!/usr/bin/env bash
# Starts a machine with Debian and systemd in qemu, installs the package on it and
# goes through what happens to it there: guest.sh. It needs root, to keep the owners
# of the machine's files, and the packages qemu-system-x86, mmdebstrap and e2fsprogs.
# The processor is emulated: it takes ten minutes on a machine with nothing else to do,
# and up to an hour on a busy one.
#
#   test/machine/run.sh PACKAGE.deb PROGRAM IMAGE.tar NODE
#
# PROGRAM is the KMS emulator of the machine, by its command dev. NODE is a directory
# with kubelet, containerd, its shim and its clients.
set -euo pipefail
deb=$(realpath "$1") program=$(realpath "$2") image=$(realpath "$3") node=$(realpath "$4")
cd "$(dirname "$0")"
limit=${MACHINE_TIMEOUT:-90m}
# KVM where it works: MACHINE_ACCEL="-accel kvm".
accel=${MACHINE_ACCEL:--accel tcg,thread=multi -cpu max}
suite=bookworm
packages=systemd-sysv,udev,dbus,linux-image-cloud-amd64,procps,util-linux,containerd,runc,containernetworking-plugins,busybox-static
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aws-encryption-provider/machine
base=$cache/$suite-$(sha256sum <<<"$packages" | cut -c1-12).tar

for tool in qemu-system-x86_64 mmdebstrap mke2fs dpkg-deb; do
	command -v $tool >/dev/null || { echo "$tool is missing: apt-get install qemu-system-x86 mmdebstrap e2fsprogs dpkg" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "this needs root: the files of the machine have owners" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
step() { echo "== $* ($((SECONDS / 60)) min)"; }

if [ ! -e "$base" ]; then
	step "packages of the machine: $suite, kept in $cache"
	mkdir -p "$cache"
	mmdebstrap --quiet --variant=minbase --include=$packages $suite "$base.new.tar"
	mv "$base.new.tar" "$base"
fi

step "disk of the machine"
root=$work/root
mkdir "$root"
tar --extract --file="$base" --directory="$root" --numeric-owner
cp "$(ls "$root"/boot/vmlinuz-* | tail -n1)" "$work/vmlinuz"
cp "$(ls "$root"/boot/initrd.img-* | tail -n1)" "$work/initrd"

# The machine of before has a package of the same files with a lower version.
dpkg-deb --raw-extract "$deb" "$work/before"
sed -i 's/^Version: .*/Version: 0~~before/' "$work/before/DEBIAN/control"
dpkg-deb --root-owner-group --build "$work/before" "$root/srv/before.deb" >/dev/null
cp "$deb" "$root/srv/after.deb"
install -m 0755 "$program" "$root/usr/local/bin/kms-emulator"
install -m 0755 guest.sh "$root/usr/local/sbin/machine-test"
install -m 0644 pods.sh "$root/usr/local/sbin/machine-test-pods"
cp "$image" "$root/srv/image.tar"
cp -r "$node" "$root/opt/node"
ln -s /opt/node/crictl "$root/usr/local/bin/crictl"
ln -s /dev/null "$root/etc/systemd/system/containerd.service" # the test starts one of its own
cp ./*.service "$root/etc/systemd/system/"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants" "$root/etc/systemd/journald.conf.d"
for unit in *.service; do
	ln -s "/etc/systemd/system/$unit" "$root/etc/systemd/system/multi-user.target.wants/$unit"
done
ln -s /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service" # the console is the test's
printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\n' >"$root/etc/systemd/journald.conf.d/test.conf"
echo machine >"$root/etc/hostname"
echo '127.0.0.1 localhost machine' >"$root/etc/hosts"
rm -f "$root/etc/machine-id" && touch "$root/etc/machine-id"
mke2fs -q -t ext4 -d "$root" "$work/disk" 4G
rm -rf "$root"

step "the machine starts"
log=$work/console
status=0
timeout --foreground "$limit" qemu-system-x86_64 $accel -m 2048 -smp 2 -nodefaults -display none -serial stdio \
	-kernel "$work/vmlinuz" -initrd "$work/initrd" -append "root=/dev/vda rw console=ttyS0 cryptomgr.notests systemd.show_status=false" \
	-drive "file=$work/disk,format=raw,if=virtio" </dev/null 2>&1 | tee "$log" | sed -un 's/\r$//; s/.*machine-test: //p' || status=$?

if [ "$status" != 0 ] || ! grep -q 'machine-test: done' "$log" || grep -q 'machine-test: FAILED' "$log"; then
	echo "== the end of the console" >&2
	tail -n 100 "$log" >&2
	echo "the machine's test failed (qemu: $status)" >&2
	exit 1
fi
echo "ok: $(grep -c 'machine-test: ok' "$log") checks in $((SECONDS / 60)) min"
