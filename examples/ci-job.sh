#!/bin/sh
# ci-job.sh TARGET COMMAND...: a job of a self-hosted runner, alone with one device (docs/ci.md).
#
# TARGET is handed to COMMAND as $HWLOOP_TARGET. Jobs for the same TARGET take turns: the lock is the kernel's and goes
# with the job, however that ends. Then the device goes back to its old driver. Exit status: COMMAND's; 75 (try again)
# when the device stayed in use for $HWLOOP_WAIT seconds. With $HWLOOP_TRIES, a COMMAND that ends with 3 is tried so many
# times again: for hwloop that is a device in use by somebody who does not know this lock; for pytest it is not.
set -u
[ $# -ge 2 ] || { echo "usage: ci-job.sh TARGET COMMAND..." >&2; exit 2; }
target=$1; shift
export HWLOOP_TARGET="$target"
hwloop=${HWLOOP:-hwloop}
wait=${HWLOOP_WAIT:-600}
locks=${HWLOOP_LOCKS:-/run/hwloop-ci}
mkdir -p -m 700 "$locks" || exit 6
lock=$locks/$(printf %s "$target" | tr -c 'A-Za-z0-9.\n' _).lock

exec 9>"$lock" || exit 6
flock -w "$wait" 9 || { echo "ci-job.sh: another job has $target" >&2; exit 75; }

# A target that the kernel has no part in (qemu:, fake:) has nothing to restore: that is exit status 2, and fine.
restore() { "$hwloop" restore "$target" >/dev/null 2>&1 9>&-; [ $? -le 2 ] || echo "ci-job.sh: $target is not restored" >&2; }
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# What a job before us left behind when its machine died goes back first.
restore
tries=0
while :; do
    "$@" 9>&-
    status=$?
    [ $status -eq 3 ] && [ $tries -lt "${HWLOOP_TRIES:-0}" ] || exit $status
    tries=$((tries + 1))
    sleep "${HWLOOP_PAUSE:-10}"
done
