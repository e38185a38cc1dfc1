# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=dash
# The whole userland of the tiny guest: loads its drivers, reads its orders from the kernel's command line (bed.*),
# writes numbered records to its disks or checks them, and says on the serial console what it did.
#
# Record n is one write of bed.kib KiB, every 16 bytes of it the number 10^14+n and a newline. It goes to disk
# (n-1) % D, and there to slot ((n-1) / D * 7919) % S: so content and place follow from n alone, and an image of one
# instant holds exactly the last record of every slot up to some M. tests/bed/records.py checks the same on the host.

/bin/busybox mkdir -p /proc /sys /dev /run /mnt /etc /bin /sbin /usr/sbin /var
/bin/busybox --install -s /bin
export PATH=/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=128m tmpfs /run
ln -sf /proc/mounts /etc/mtab
ln -sf /run /var/run
exec </dev/console >/dev/console 2>&1

say() { echo "bed: $*"; }
halt_guest() { sync; poweroff -f; }
die() { say "BROKEN $*"; halt_guest; sleep 60; }

while read -r module; do
    insmod "/modules/$module.ko" || say "module $module did not load"
done < /modules/order

# Orders, with their defaults.
mode="idle" disks=vda agent=0 fs='' kib=4 slots=256 base=1 stride=0 mix=0 limit=0 pause=0 sync=1
# Set by name, per disk.
dev='' S=1
read -r cmdline < /proc/cmdline
for word in $cmdline; do
    case $word in
        bed.*=*) key=${word%%=*}; eval "${key#bed.}=\${word#*=}" ;;
    esac
done
[ "$stride" -gt 0 ] || stride=$kib

# The power button: libvirt's shutdown request ends the guest, cleanly enough for a machine without services.
for button in /sys/class/input/event*; do
    [ "$(cat "$button/device/name")" = "Power Button" ] || continue
    ( head -c 1 "/dev/input/${button##*/}" >/dev/null && { say "power button"; halt_guest; } ) &
done

if [ -n "$fs" ]; then
    mount -t ext4 "/dev/$fs" /mnt || die "cannot mount ext4 of /dev/$fs"
    say "mounted $fs"
fi
if [ "$agent" = 1 ]; then
    tries=0
    while [ ! -c /dev/vport0p1 ] && [ $tries -lt 50 ]; do usleep 100000; tries=$((tries + 1)); done
    qemu-ga -d -m virtio-serial -p /dev/vport0p1 -t /run || die "the guest agent did not start"
    say "agent started"
fi

# Geometry: D disks; for disk i dev$i, size in slots S$i. An open device number, never a plain file.
D=0
for name in $(echo "$disks" | tr , ' '); do
    tries=0
    while [ ! -b "/dev/$name" ] && [ $tries -lt 50 ]; do usleep 100000; tries=$((tries + 1)); done
    [ -b "/dev/$name" ] || die "/dev/$name is not a block device"
    fit=$((($(cat "/sys/block/$name/size") / 2 - base * 1024) / stride))
    [ "$fit" -gt 0 ] || die "/dev/$name is too small"
    [ "$fit" -lt "$slots" ] || fit=$slots
    [ $((fit % 7919)) -ne 0 ] || fit=$((fit - 1))
    eval "dev$D=/dev/$name S$D=$fit"
    D=$((D + 1))
done

# What record n does: with bed.mix=1 every 5th of 8 zeroes its slot and every 7th of 8 discards it.
kind() {
    kind="write"
    [ "$mix" = 0 ] || case $(($1 % 8)) in 5) kind=zero ;; 7) kind=trim ;; esac
}

flags=notrunc
[ "$sync" = 0 ] || flags=notrunc,fsync

put() {
    i=$((($1 - 1) % D))
    eval "dev=\$dev$i S=\$S$i"
    turn=$((($1 - 1) / D))
    at=$((base * 1024 + turn * 7919 % S * stride))
    kind "$1"
    case $kind in
        write)
            line="$((100000000000000 + $1))
"
            b=$line$line$line$line; b=$b$b$b$b; b=$b$b$b$b; b=$b$b$b$b
            k=0
            while [ $k -lt "$kib" ]; do printf %s "$b"; k=$((k + 4)); done > /run/record
            from=/run/record ;;
        zero) from=/dev/zero ;;
        trim) blkdiscard -o $((at * 1024)) -l $((kib * 1024)) "$dev" && return 0
            from=/dev/zero ;;
    esac
    # A seek in units of the record would need aligned places; bytes do not.
    dd if="$from" of="$dev" bs="${kib}k" count=1 seek="${at}k" oflag=seek_bytes,direct conv=$flags 2>/run/dd.err ||
        die "write of record $1 failed: $(cat /run/dd.err)"
}

# Prints every run of equal 16-byte lines as "disk offset hex", offsets counted within the slots laid end to end.
runs() {
    i=0
    while [ $i -lt $D ]; do
        eval "dev=\$dev$i S=\$S$i"
        echo "disk $i $S"
        if [ "$stride" = "$kib" ]; then
            dd if="$dev" bs="${kib}k" skip="${base}M" count="$S" iflag=skip_bytes 2>/dev/null
        else
            s=0
            while [ $s -lt "$S" ]; do
                dd if="$dev" bs="${kib}k" skip="$((base * 1024 + s * stride))k" count=1 iflag=skip_bytes 2>/dev/null
                s=$((s + 1))
            done
        fi | hexdump -e '"%_ad "' -e '16/1 "%02x" "\n"'
        i=$((i + 1))
    done
}

# Finds M, proves that the disks hold exactly records 1..M, prints "M" or "BROKEN why". See records.py for the rules.
scan() {
    runs | awk -v D=$D -v kib="$kib" -v mix="$mix" '
    function kind(n) { return !mix ? "w" : n % 8 == 5 ? "z" : n % 8 == 7 ? "t" : "w" }
    function slot(n) { return int((n - 1) / D) * 7919 % S[(n - 1) % D] }
    function broken(text) { if (!bad) print "BROKEN " text; bad = 1; exit }
    # May this block, which holds `have`, be what operation n (or, if it discarded, one before it) left behind?
    function fits(have, n) {
        while (n > 0 && kind(n) == "t") { if (have == 0) return 1; n -= D * S[(n - 1) % D] }
        return n <= 0 || kind(n) == "z" ? have == 0 : have == n
    }
    function close_run(end,   b) {
        if (start < 0 || end == start) return
        if (start % 4096 || end % 4096) broken("disk " d ": torn inside a block at " start)
        for (b = start / 4096; b < end / 4096; b++) block[d, b] = value
        if (value > top) top = value
    }
    BEGIN { d = 0; start = -1; top = 0; per = kib / 4 }
    /^disk/ { close_run(S[d] * kib * 1024); d = $2; S[d] = $3; start = -1; next }
    /^\*/ { next }
    {
        close_run($1); start = $1
        if ($2 == "00000000000000000000000000000000") value = 0
        else if ($2 ~ /^31(3[0-9])+0a$/) {
            value = 0
            for (p = 4; p <= 30; p += 2) value = value * 10 + substr($2, p, 1)
        } else broken("disk " d ": foreign bytes at " start ": " $2)
    }
    END {
        if (bad) exit
        close_run(S[d] * kib * 1024)
        # A half-finished newest record was in flight; so may be the zeroing and discarding right behind it.
        torn = 0
        if (top) for (p = 0; p < per; p++) if (block[(top - 1) % D, slot(top) * per + p] != top) torn = top
        M = torn ? torn - 1 : top
        for (t = M + 1; kind(t) != "w"; t++) loose[(t - 1) % D, slot(t)] = 1
        for (i = 0; i < D; i++) for (q = 0; q < S[i]; q++) {
            s = q * 7919 % S[i]; last = i + 1 + q * D; period = D * S[i]
            if (last <= M) last += int((M - last) / period) * period
            else last = 0
            for (p = 0; p < per; p++) {
                have = block[i, s * per + p]
                if (fits(have, last)) continue
                if (have == 0 && loose[i, s]) continue
                if (torn && have == torn && i == (torn - 1) % D && s == slot(torn)) continue
                broken("disk " i " slot " s ": holds record " have " where " last " belongs, newest " M)
            }
        }
        print M
    }'
}

# Writing resumes behind what is there, and only if that is whole.
n=0
case $mode in
    writer|check)
        found=$(scan)
        case $found in
            BROKEN*) say "$found"; halt_guest; sleep 60 ;;
            *) say "found 1..$found intact"; n=$found ;;
        esac ;;
esac

say "ready mode=$mode"
case $mode in
    check) halt_guest ;;
    writer)
        while [ "$limit" = 0 ] || [ "$n" -lt "$limit" ]; do
            n=$((n + 1))
            put $n
            echo "wrote $n"
            [ -z "$fs" ] || [ $((n % 3)) -ne 0 ] || echo "$n" >> /mnt/journal
            [ "$pause" = 0 ] || usleep "$pause"
        done
        say "finished $n" ;;
    flood)
        # As many different bytes as fast as possible, round and round: fills scratch space, proves nothing.
        dd if=/dev/urandom of=/run/noise bs=1M count=8 2>/dev/null
        while :; do
            i=0
            while [ $i -lt $D ]; do
                eval "dev=\$dev$i"
                mib=$(($(blockdev --getsize64 "$dev") / 1048576)); at=0
                while [ $at -lt $mib ]; do
                    dd if=/run/noise of="$dev" bs=1M count=8 seek=$at oflag=direct conv=notrunc 2>/dev/null
                    n=$((n + 8)); at=$((at + 8))
                    echo "flooded $n MiB"
                done
                i=$((i + 1))
            done
        done ;;
esac
while :; do sleep 3600; done
