#!/bin/sh
# What a kernel of tests/support/linux_host.py runs as its first process. The root is that of the machine outside, read
# only; what is written lies in memory. The kernel's command line gave these as variables:
#   annex_modules   the folder of the kernel's modules         annex_agent     tests/support/linux_agent.py
#   annex_name      the host's iSCSI name                      annex_addresses "vec0=ADDRESS/LENGTH,vec1=…"
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run LC_ALL=C.UTF-8 TMPDIR=/run
# Its kernel keeps no registers beyond those of AVX: linux_registers.c.
export GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW
: "${annex_modules:?}" "${annex_agent:?}" "${annex_name:?}" "${annex_addresses:?}"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm
for folder in /run /mnt /dev/shm; do mount -t tmpfs tmpfs "$folder"; done
mkdir -p /run/lock /run/modprobe/lib/modules /run/etc/upper /run/etc/work /run/var/upper /run/var/work

# kmod looks in /lib/modules, which is not there and cannot be made: this looks for them where they are.
ln -s "$annex_modules" "/run/modprobe/lib/modules/$(uname -r)"
printf '#!/bin/sh\nexec /sbin/modprobe -d /run/modprobe "$@"\n' >/run/modprobe/modprobe
chmod 0755 /run/modprobe/modprobe
echo /run/modprobe/modprobe >/proc/sys/kernel/modprobe

/run/modprobe/modprobe overlay
for folder in etc var; do
    mount -t overlay overlay -o "lowerdir=/$folder,upperdir=/run/$folder/upper,workdir=/run/$folder/work" "/$folder"
done
/run/modprobe/modprobe -a iscsi_tcp sd_mod sg
rm -rf /etc/iscsi/nodes /etc/iscsi/send_targets
printf 'InitiatorName=%s\n' "$annex_name" >/etc/iscsi/initiatorname.iscsi

ip link set lo up
IFS=,
for pair in $annex_addresses; do
    ip link set "${pair%%=*}" up
    ip address add "${pair#*=}" dev "${pair%%=*}"
done
unset IFS
iscsid

cd /run || exit
# It ends when the test does, or dies; so does the kernel then.
/usr/bin/python3 -I "$annex_agent" </dev/ttyS0 >/dev/ttyS0 2>/dev/console
echo o >/proc/sysrq-trigger
sleep 60
