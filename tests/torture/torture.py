#!/usr/bin/env python3
"""Puts supervisord, s6, runit and Vigie under the same faults and prints a table in Markdown.

usage: torture.py VIGIE-PROGRAM [PART-OF-A-FAULT'S-NAME…]
       torture.py --restarts NUMBER VIGIE-PROGRAM

The second form kills one service of Vigie's that often and says what it cost. TORTURE_SECONDS is how long the row about
killing again and again takes for each supervisor (60).

Needs root (control groups, small file systems) and Debian's packages supervisor, s6, runit and libfaketime; a supervisor
that is not installed has an empty column.
"""

import contextlib
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from supervisors import LIVE, SHELL, S6, Runit, Supervisord, Vigie, processes, variable, wait

YEAR = 365 * 24 * 3600


def seconds(value):
    return "never (30 s)" if value is None else "%.2f s" % value


class Outcome:
    """What is true at the end of every fault, for the supervisor that had it last."""

    notes = ""
    status = ""


def take_outcome(one):
    """Looks at what is left: more than one copy of a service, processes after an orderly stop, what the status said."""
    notes = ["%d copies of %s" % (len(found), name) for name in ("good", "bad") if len(found := one.services(name)) > 1]
    Outcome.status = one.status()
    left = one.stop()
    if left:
        notes.append("%d processes left after its stop" % left)
    Outcome.notes = "".join(", " + note for note in notes)


@contextlib.contextmanager
def running(kind, bad=LIVE, enter=(), **environment):
    one = kind(bad, enter, **environment)
    try:
        yield one.start()
        take_outcome(one)
    finally:
        one.end()


def kill(pid):
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def back_after(one, name="bad", limit=30):
    """Kills a service and says after how many seconds another process is it."""
    before = one.service(name)
    if before is None:
        return None
    kill(before)
    return wait(lambda: one.service(name) not in (None, before), limit)


def crash(kind):
    with running(kind) as one:
        time.sleep(1.5)
        return "back after " + seconds(back_after(one))


def stopped(kind):
    with running(kind) as one:
        time.sleep(1.5)
        before = one.service("bad")
        os.kill(before, signal.SIGSTOP)
        found = wait(lambda: one.service("bad") not in (None, before), 12)
        return "still stopped after 12 s" if found is None else "replaced after " + seconds(found)


def orphans(kind):
    # Each helper knows whose it is.
    body = "LIFE=$$ setsid sleep 100000 >/dev/null 2>&1 </dev/null &\n" + LIVE
    with running(kind, body) as one:
        for _ in range(3):
            time.sleep(1.5)
            back_after(one)
        time.sleep(1.5)
        living = str(one.service("bad"))
        helpers = [variable(pid, "LIFE") for pid, line in one.others().items() if "sleep 100000" in line]
        return "%d of dead services, %d of the living one" % (
            sum(life != living for life in helpers), helpers.count(living))


def daemonises(kind):
    body = "setsid sleep 100000 >/dev/null 2>&1 </dev/null &\nexit 0\n"
    with running(kind, body) as one:
        time.sleep(15)
        count = sum("sleep 100000" in line for line in one.others().values())
        return "%d copies after 15 s" % count


def supervisor_killed(kind):
    body = "(setsid sleep 100000 >/dev/null 2>&1 </dev/null &)\n" + LIVE
    one = kind(body)
    try:
        one.start()
        time.sleep(1.5)
        os.kill(one.own(), signal.SIGKILL)
        one.child.wait()
        time.sleep(3)
        if kind is Vigie:
            one.status()
            Outcome.status = "exit %s" % one.run(Vigie.program, "status", "--run-dir", "run")
        return "%d processes left" % len(processes(one.mark))
    finally:
        one.end()


def supervisor_stopped(kind):
    with running(kind) as one:
        time.sleep(1.5)
        os.kill(one.own(), signal.SIGSTOP)
        before = {name: one.service(name) for name in ("good", "bad")}
        kill(before["bad"])
        begun = time.monotonic()
        if kind is Vigie:
            meanwhile = one.run(Vigie.program, "status", "--run-dir", "run")
        time.sleep(max(0, 30 - (time.monotonic() - begun)))
        os.kill(one.own(), signal.SIGCONT)
        found = wait(lambda: one.service("bad") not in (None, before["bad"]), 30)
        kept = one.service("good") == before["good"]
        answer = "back after %s, the other service %s" % (seconds(found), "kept" if kept else "restarted")
    if kind is Vigie:
        Outcome.status = "exit %s while it is stopped; afterwards %s" % (meanwhile, Outcome.status)
    return answer


def fork_bomb(kind):
    group = "/sys/fs/cgroup/pids/torture-%d" % os.getpid()
    os.mkdir(group)
    with open(group + "/pids.max", "w") as file:
        file.write("60")
    body = ("i=0; while [ $i -lt 40 ]; do read -r line; case $line in *'\"ping\"'*) printf '%s\\n' \"$line\"; break;; esac; i=$((i+1)); done\n"
            "sleep 2\nb() { b | b & }; while :; do b; done\n")
    try:
        with running(kind, body, [SHELL, "-c", "echo $$ > %s/cgroup.procs; exec \"$@\"" % group, SHELL]) as one:
            good = one.service("good")
            time.sleep(10)
            lives = "lives" if one.alive() else "DIED"
            kept = one.service("good") == good
            if kept:
                found = "kept"
            else:
                found = "back after %s" % seconds(wait(lambda: one.service("good"), 30))
            answer = "%s, the other service %s" % (lives, found)
        # What the bomb leaves is not counted: its shells are many copies of one service by their nature.
        Outcome.notes = ""
        return answer
    finally:
        def members():
            found = []
            for path, _, files in os.walk(group):
                if "cgroup.procs" in files:
                    with open(path + "/cgroup.procs") as file:
                        found += [int(line) for line in file]
            return found
        for _ in range(300):
            for pid in members():
                kill(pid)
            for path, _, _ in list(os.walk(group, topdown=False)):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            if not os.path.exists(group):
                break
            time.sleep(0.02)


def no_descriptors(kind):
    with running(kind) as one:
        time.sleep(1.5)
        subprocess.run(["prlimit", "--pid", str(one.own()), "--nofile=3:"], check=True)
        before = one.service("bad")
        kill(before)
        time.sleep(3)
        subprocess.run(["prlimit", "--pid", str(one.own()), "--nofile=1024:"], check=True)
        if not one.alive():
            return "DIED"
        return "back after " + seconds(wait(lambda: one.service("bad") not in (None, before), 30))


def full_disk(kind):
    # It writes all the time, so that the last page of each log is used up soon.
    talk = r"""sh -c 'while sleep 0.05; do printf "%0500d\n" 0 >&2; done' &"""
    one = kind(talk + "\n" + LIVE)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", one.logs], check=True)
    try:
        one.start()
        time.sleep(1.5)
        with contextlib.suppress(OSError), open(one.logs + "/fill", "wb") as file:
            file.write(b"x" * 65536)
        time.sleep(2)
        answer = "back after " + seconds(back_after(one))
        time.sleep(1)
        take_outcome(one)
        return answer
    finally:
        one.end()
        subprocess.run(["umount", "-l", one.logs], check=False)
        shutil.rmtree(one.directory, ignore_errors=True)


def frozen_disk(kind):
    one = kind(LIVE)
    image = one.directory + ".img"
    subprocess.run(["truncate", "-s", "16M", image], check=True)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, one.logs], check=True)
    frozen = False
    try:
        one.start()
        time.sleep(1.5)
        subprocess.run(["fsfreeze", "-f", one.logs], check=True)
        frozen = True
        found = back_after(one)
        answer = "back after " + seconds(found)
        time.sleep(1)
        Outcome.status = one.status()
        os.kill(one.own(), one.stop_signal)
        ended = wait(lambda: not one.alive(), 15)
        return answer + (", its stop ends" if ended is not None else ", its stop does not end")
    finally:
        if frozen:
            subprocess.run(["fsfreeze", "-u", one.logs], check=False)
        one.end()
        subprocess.run(["umount", "-l", one.logs], check=False)
        shutil.rmtree(one.directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(image)


def endless_line(kind):
    done = 'head -c 1G /dev/zero | tr "\\0" x'
    body = "(%s; : > $0.out) &\n(%s >&2; : > $0.err) &\n" % (done, done) + LIVE
    with running(kind, body) as one:
        ends = [one.script("bad") + end for end in (".out", ".err")]
        before = one.service("bad")
        taken = wait(lambda: all(map(os.path.exists, ends)) or not one.alive(), 180)
        with open("/proc/%d/status" % one.own()) as file:
            peak = next(line.split()[1] for line in file if line.startswith("VmHWM"))
        kept = sum(os.path.getsize(path) for path in glob.glob(one.logs + "/*"))
        return "%s, peak %d MiB, %d MiB in its logs, the service %s" % (
            "not read in 180 s" if taken is None else "read in %.0f s" % taken, int(peak) // 1024, kept >> 20,
            "kept" if one.service("bad") == before else "replaced")


def use_of(pid):
    """Descriptors and private memory in KiB of a process."""
    with open("/proc/%d/smaps_rollup" % pid) as file:
        private = sum(int(line.split()[1]) for line in file if line.startswith("Private_"))
    return len(os.listdir("/proc/%d/fd" % pid)), private


def restarts(kind, most=10_000, longest=None):
    longest = longest or float(os.environ.get("TORTURE_SECONDS", "60"))
    with running(kind) as one:
        good = one.service("good")
        time.sleep(1.5)
        before = use_of(one.own())
        counted, killed, begun = 0, None, time.monotonic()
        while counted < most and time.monotonic() - begun < longest:
            # Vigie's own status is quicker than a look at all processes.
            pid = one.watcher.module().get("pid") if kind is Vigie else one.service("bad")
            if pid and pid != killed:
                kill(pid)
                counted, killed = counted + 1, pid
            time.sleep(0.005)
        took = time.monotonic() - begun
        wait(lambda: one.service("bad") not in (None, killed), 30)
        time.sleep(1)
        after = use_of(one.own())
        left = sum(".sh" in line for line in one.others().values())
        return "%d kills in %.0f s (10,000 in %.1f h), %d services run, the other one %s, descriptors %d → %d, private memory %d → %d KiB" % (
            counted, took, took / max(counted, 1) * 10_000 / 3600, left,
            "kept" if one.service("good") == good else "restarted", before[0], after[0], before[1], after[1])


def clock(kind):
    """CLOCK_REALTIME as the supervisor reads it, by libfaketime: a year ahead, and then two years back."""
    library = next(iter(glob.glob("/usr/lib/*/faketime/libfaketime.so.1")), None)
    if library is None:
        return "not measured: libfaketime is not installed"
    now = "/run/torture-clock-%d" % os.getpid()

    def set_clock(offset):
        with open(now + ".new", "w") as file:
            file.write("%+d\n" % offset)
        os.rename(now + ".new", now)

    set_clock(0)
    faked = {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": now, "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
             "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1"}
    try:
        with running(kind, **faked) as one:
            with open("/proc/%d/maps" % one.own()) as file:
                if "libfaketime" not in file.read():
                    return "not measured: libfaketime does not reach it"
            good = one.service("good")
            answers = []
            for name, offset in (("+1 year", YEAR), ("−1 year", -YEAR)):
                time.sleep(2)
                set_clock(offset)
                time.sleep(2)
                answers.append("%s: back after %s" % (name, seconds(back_after(one))))
            time.sleep(2)
            return "%s; the other service %s" % ("; ".join(answers), "kept" if one.service("good") == good else "restarted")
    finally:
        with contextlib.suppress(OSError):
            os.unlink(now)


def half_configuration(kind, cuts=12):
    with running(kind) as one:
        path = one.configuration()
        with open(path) as file:
            whole = file.read()
        lost, refused = 0, 0
        for cut in range(cuts):
            time.sleep(1)
            before = {name: one.service(name) for name in ("good", "bad")}
            # Never at the end of a line: that would be a whole file to every one of them.
            half = whole[:len(whole) * cut // cuts]
            half = half[:-1] if half.endswith("\n") else half
            with open(path, "w") as file:
                file.write(half)
            refused += one.reload() not in (0, None)
            time.sleep(1)
            # What is not read at a reload is read at the next start.
            back = back_after(one, limit=5)
            lost += back is None or one.service("good") != before["good"] or not one.alive()
            with open(path, "w") as file:
                file.write(whole)
            one.reload()
            if wait(lambda: one.service("good") and one.service("bad"), 15) is None:
                return "both services do not come back with the whole file after cut %d of %d" % (cut + 1, cuts)
        # Half a name of a log is one too.
        for end in range(len("/tmp/"), len(path)):
            if os.path.isfile(path[:end]):
                os.unlink(path[:end])
        told = "" if kind in (S6, Runit) else ", the reload failed %d times" % refused
        return "a service lost by %d of %d cuts%s" % (lost, cuts, told)


def log_moved(kind):
    talk = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo \"line $i\" >&2; sleep 0.05; done"
    with running(kind, "sh -c '%s' &\n" % talk + LIVE) as one:
        def lines(pattern):
            found = set()
            for path in glob.glob(one.logs + "/*"):
                if pattern(path):
                    with open(path, errors="replace") as file:
                        found |= set(map(int, re.findall(r"line (\d+)", file.read())))
            return found
        time.sleep(3)
        for path in glob.glob(one.logs + "/*"):
            os.rename(path, path + ".moved")
        time.sleep(3)
        by_itself = lines(lambda path: not path.endswith(".moved"))
        one.reopen_logs()
        wait(lambda: 200 in lines(lambda path: True), 30)
        time.sleep(0.5)
        told = lines(lambda path: not path.endswith(".moved"))
        where = "by itself" if by_itself else "when told" if told else "only in the moved file, until the service is restarted"
        return "%d of 200 lines lost; new ones in the new file: %s" % (200 - len(lines(lambda path: True)), where)


FAULTS = [
    ("service killed", "`kill -9` of the service", crash),
    ("service hangs", "`kill -STOP` of the service", stopped),
    ("helper in a session of its own, 3 kills of its service", "`setsid sleep 100000 &` in the service", orphans),
    ("service that daemonises", "`setsid sleep 100000 & exit 0`", daemonises),
    ("supervisor killed, 3 s later", "`kill -9` of the supervisor", supervisor_killed),
    ("supervisor stopped for 30 s, service killed meanwhile", "`kill -STOP`, then `-CONT`", supervisor_stopped),
    ("fork bomb under a limit of 60 tasks for all", "`pids.max` of 60 above the supervisor", fork_bomb),
    ("no descriptors for 3 s, service killed meanwhile", "`prlimit --nofile=3:` on the supervisor", no_descriptors),
    ("full disk for logs, service killed", "tmpfs of 64 KiB, filled", full_disk),
    ("frozen disk for logs, service killed", "`fsfreeze -f`", frozen_disk),
    ("line without end on both pipes, 1 GiB each", "`head -c 1G /dev/zero \\| tr '\\0' x`", endless_line),
    ("killed again and again", "`kill -9` as soon as it is back", restarts),
    ("clock a year ahead, then two years back", "`CLOCK_REALTIME` by libfaketime", clock),
    ("half-written configuration, reload, service killed", "the file cut in 12 places within a line, one after the other", half_configuration),
    ("log moved away under it", "`mv` of its log files, 3 s later its signal for that", log_moved),
]


def many_restarts(number):
    """Kills one service of Vigie's many times, with next to no pause between its lives."""
    Vigie.restart = "breaker_deaths = 0\nbackoff_initial = \"1ms\"\nbackoff_max = \"1ms\"\n"
    print(restarts(Vigie, number, 24 * 3600.0) + Outcome.notes)


def main():
    arguments = sys.argv[1:]
    if arguments[0] == "--restarts":
        Vigie.program = os.path.abspath(arguments[2])
        many_restarts(int(arguments[1]))
        return
    Vigie.program = os.path.abspath(arguments[0])
    kinds = [Supervisord, S6, Runit, Vigie]
    print("| fault | made by | " + " | ".join(kind.name for kind in kinds) + " | what `vigie status` said |")
    print("|---|---|" + "---|" * (len(kinds) + 1))
    for title, made_by, fault in FAULTS:
        if arguments[1:] and not any(part in title for part in arguments[1:]):
            continue
        cells = []
        for kind in kinds:
            Outcome.notes, Outcome.status = "", ""
            if not shutil.which(kind.program):
                cells.append("not installed")
                continue
            try:
                answer = fault(kind)
                cells.append(answer + Outcome.notes)
            except Exception as error:  # One fault that cannot be made must not hide the others.
                cells.append("not measured: %s" % error)
        print("| %s | %s | %s | %s |" % (title, made_by, " | ".join(cells), Outcome.status), flush=True)


if __name__ == "__main__":
    main()
