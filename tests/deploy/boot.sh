#!/bin/sh
# Boot this system's own systemd as the first process of new namespaces, on a copy of this system's
# files that is kept in memory. Nothing of the system itself is changed and nothing is downloaded.
#   boot.sh boot STAGE REPOSITORY GROUP   to be run in a mount namespace of its own
#   boot.sh clean GROUP                   remove the control group afterwards; the same
# Exit status 77: this machine does not allow it; the last line on stderr says why.
set -eu

no() { echo "$*" >&2; exit 77; }

mount_groups() { # cgroup2, wherever this system has it or not
  mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$1" 2>/dev/null || no "cannot mount cgroup2"
}

boot() {
  stage=$1 repository=$2 group=$3
  [ -x /lib/systemd/systemd ] || no "systemd is not installed"
  mount -t tmpfs -o mode=755 tmpfs "$stage" 2>/dev/null || no "may not mount"
  root=$stage/root
  mkdir "$stage/upper" "$stage/work" "$root"
  mount -t overlay -o "lowerdir=/,upperdir=$stage/upper,workdir=$stage/work" overlay "$root" \
    2>/dev/null || no "cannot mount an overlay of /"
  [ -x "$root/usr/bin/env" ] || no "/usr is a file system of its own"
  mkdir -p "$root/srv/etlt"
  tar -C "$repository" --exclude=.venv --exclude=.git --exclude='.*_cache' -cf - . |
    tar -C "$root/srv/etlt" -xf -
  for file in resolv.conf hosts; do # in a container they are mounts, which an overlay leaves out
    rm -f "$root/etc/$file" && cp "/etc/$file" "$root/etc/$file"
  done
  mount_groups "$root/sys" # for a moment
  mkdir "$root/sys/$group"
  echo $$ > "$root/sys/$group/cgroup.procs" || no "cannot enter a control group of our own"
  umount "$root/sys"
  exec unshare --cgroup --pid --fork --kill-child --net --ipc --uts --mount \
    "$0" first_process "$root"
}

first_process() {
  cd "$1"
  echo etlt-test >etc/hostname # systemd reads it
  mount -t proc -o nosuid,nodev,noexec proc proc
  for path in sys sysrq-trigger; do # these are the whole machine's
    mount --bind "proc/$path" "proc/$path" && mount -o remount,bind,ro "proc/$path"
  done
  mount -t sysfs -o nosuid,nodev,noexec,ro sysfs sys
  mount_groups sys/fs/cgroup
  mount_devices
  mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp
  mount -t tmpfs -o mode=755,nosuid,nodev tmpfs var/log
  only_our_units
  mkdir run/old
  pivot_root . run/old
  umount -l /run/old
  mount --make-rshared / # as at a real boot: credentials come by propagation
  exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=etlt-test \
    /lib/systemd/systemd --unit=basic.target --show-status=no </dev/null >/dev/null 2>&1
}

mount_devices() {
  mount -t tmpfs -o mode=755,nosuid,noexec tmpfs dev
  for node in null zero full random urandom tty; do
    touch dev/$node && mount --bind /dev/$node dev/$node
  done
  touch dev/console && mount --bind /dev/null dev/console
  mkdir dev/pts dev/shm
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
  ln -s pts/ptmx dev/ptmx
  ln -s /proc/self/fd dev/fd
}

only_our_units() { # of this system's, only the journal: others would set clocks, consoles, the kernel
  mount -t tmpfs -o mode=755 tmpfs etc/systemd/system
  : > etc/fstab
  ln -s /dev/null etc/systemd/system/systemd-journald-audit.socket
  echo 0123456789abcdef0123456789abcdef > etc/machine-id
  for target in sysinit sockets timers local-fs paths; do
    rm -rf "lib/systemd/system/$target.target.wants"
    mkdir "lib/systemd/system/$target.target.wants"
  done
  ln -s ../systemd-journald.service lib/systemd/system/sysinit.target.wants/
  ln -s ../systemd-journald.socket ../systemd-journald-dev-log.socket \
    lib/systemd/system/sockets.target.wants/
}

clean() {
  mount_groups /sys/fs
  cd /sys/fs
  [ ! -d "$1" ] || find "$1" -depth -type d -exec rmdir {} \;
}

"$@"
