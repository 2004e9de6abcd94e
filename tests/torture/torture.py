#!/usr/bin/env python3
"""Puts supervisord, s6, runit and Vigie under the same faults and prints a table in Markdown.

usage: torture.py VIGIE-PROGRAM

Needs root (control groups, small file systems) and Debian's packages supervisor, s6 and runit; a supervisor that is not
installed has an empty column. Every supervisor runs the same two services, `good` and `bad`, in a directory of its own;
`bad` has the fault. Processes are recognised by a mark in their environment, so nobody escapes the count.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SHELL = "/bin/sh"
# A service that answers the agent's heartbeats; for the others its stdin says nothing and it only waits.
LIVE = 'while read -r line; do case $line in *\'"ping"\'*) printf "%s\\n" "$line";; esac; done; while :; do sleep 5; done\n'


def processes(mark):
    """Numbers and command lines of living processes that carry the mark."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % pid, "rb") as file:
                if ("TORTURE=%s" % mark).encode() not in file.read().split(b"\0"):
                    continue
            with open("/proc/%s/cmdline" % pid, "rb") as file:
                found[int(pid)] = file.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            pass
    return found


def wait(condition, seconds):
    """Seconds until a condition held; None when it did not."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        value = condition()
        if value:
            return time.monotonic() - begun
        time.sleep(0.01)
    return None


class Supervisor:
    """One supervisor with the services good and bad, whose scripts are given."""

    name = ""
    program = ""

    def __init__(self, bad, enter=()):
        self.directory = tempfile.mkdtemp(prefix="torture-")
        self.logs = os.path.join(self.directory, "logs")
        os.mkdir(self.logs)
        self.mark = os.path.basename(self.directory)
        self.environment = {"PATH": os.environ["PATH"], "TORTURE": self.mark}
        self.enter = list(enter)
        self.child = None
        for name, body in (("good", LIVE), ("bad", bad)):
            self.write("%s.sh" % name, "#!/bin/sh\n# service %s\n%s" % (name, body))
        self.configure()

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o755)
        return path

    def script(self, name):
        return os.path.join(self.directory, "%s.sh" % name)

    def configure(self):
        raise NotImplementedError

    def command(self):
        raise NotImplementedError

    def start(self):
        self.child = subprocess.Popen(
            self.enter + self.command(), cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=open(os.path.join(self.directory, "out"), "a"), stderr=subprocess.STDOUT)
        if wait(lambda: self.service("good") and (self.service("bad") or True), 15) is None:
            raise RuntimeError("%s does not start its service" % self.name)
        return self

    def service(self, name):
        """The process that is a service, if it runs."""
        script = self.script(name)
        return next((pid for pid, line in processes(self.mark).items()
                     if line.split()[:2] == [SHELL, script] and not is_zombie(pid)), None)

    def own(self):
        return self.child.pid

    def alive(self):
        return self.child.poll() is None

    def others(self):
        """What is there beside the supervisor's own processes and good."""
        return {pid: line for pid, line in processes(self.mark).items() if "sleep" in line or ".sh" in line}

    def end(self):
        if self.child and self.alive():
            self.child.send_signal(signal.SIGCONT)
            self.child.send_signal(signal.SIGKILL)
            self.child.wait()
        for _ in range(200):
            left = processes(self.mark)
            if not left:
                break
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        shutil.rmtree(self.directory, ignore_errors=True)


class Supervisord(Supervisor):
    name, program = "supervisord", "supervisord"

    def configure(self):
        text = "[supervisord]\nnodaemon=true\nlogfile=%s/main.log\npidfile=%s/pid\n" % (self.logs, self.directory)
        for name in ("good", "bad"):
            text += "[program:%s]\ncommand=%s %s\nautorestart=true\nstartsecs=0\nstartretries=1000000\nstdout_logfile=%s/%s.log\n" % (
                name, SHELL, self.script(name), self.logs, name)
        self.write("supervisord.conf", text)

    def command(self):
        return ["supervisord", "-c", "supervisord.conf"]


class S6(Supervisor):
    name, program = "s6", "s6-svscan"

    def configure(self):
        for name in ("good", "bad"):
            self.write("scan/%s/run" % name, "#!/bin/sh\nexec %s %s >>%s/%s.log 2>&1\n" % (SHELL, self.script(name), self.logs, name))

    def command(self):
        return ["s6-svscan", "scan"]


class Runit(S6):
    name, program = "runit", "runsvdir"

    def command(self):
        return ["runsvdir", "scan"]


class Vigie(Supervisor):
    name, program = "Vigie", ""

    def configure(self):
        text = ("[agent]\nrun_dir = \"%s/run\"\nstate_dir = \"%s/state\"\npersistconfigdir = \"%s\"\nheartbeat_interval = \"1s\"\n"
                "[logging]\nmode = \"file\"\nfile = \"%s/agent.log\"\n[restart]\nbreaker_deaths = 0\nbackoff_max = \"1s\"\n"
                "[[module]]\nname = \"fswatch\"\nenabled = false\n") % (
                    self.directory, self.directory, self.directory, self.logs)
        for name in ("good", "bad"):
            text += "[[module]]\nname = \"%s\"\ncommand = [\"%s\", \"%s\"]\nenv = { TORTURE = \"%s\" }\n" % (
                name, SHELL, self.script(name), self.mark)
        self.write("vigie.toml", text)
        os.chmod(os.path.join(self.directory, "vigie.toml"), 0o644)

    def command(self):
        return [Vigie.program, "agent", "--config", "vigie.toml"]

    def others(self):
        found = super().others()
        return {pid: line for pid, line in found.items() if " launch " not in line}


def is_zombie(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def seconds(value):
    return "never (30 s)" if value is None else "%.2f s" % value


@contextlib.contextmanager
def running(kind, bad=LIVE, enter=()):
    one = kind(bad, enter)
    try:
        yield one.start()
    finally:
        one.end()


def back_after(one, name="bad"):
    """Kills a service and says after how many seconds another process is it."""
    before = one.service(name)
    os.kill(before, signal.SIGKILL)
    return wait(lambda: one.service(name) not in (None, before), 30)


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
    body = "(setsid sleep 100000 >/dev/null 2>&1 </dev/null &)\n" + LIVE
    with running(kind, body) as one:
        for _ in range(3):
            time.sleep(1.5)
            back_after(one)
        time.sleep(1.5)
        count = sum("sleep 100000" in line for line in one.others().values())
        return "%d helpers for one service" % count


def daemonises(kind):
    body = "setsid sleep 100000 >/dev/null 2>&1 </dev/null &\nexit 0\n"
    with running(kind, body) as one:
        time.sleep(15)
        count = sum("sleep 100000" in line for line in one.others().values())
        return "%d copies after 15 s" % count


def supervisor_killed(kind):
    body = "(setsid sleep 100000 >/dev/null 2>&1 </dev/null &)\n" + LIVE
    with running(kind, body) as one:
        time.sleep(1.5)
        os.kill(one.own(), signal.SIGKILL)
        one.child.wait()
        time.sleep(3)
        return "%d processes left" % len(processes(one.mark))


def supervisor_stopped(kind):
    with running(kind) as one:
        time.sleep(1.5)
        os.kill(one.own(), signal.SIGSTOP)
        before = {name: one.service(name) for name in ("good", "bad")}
        os.kill(before["bad"], signal.SIGKILL)
        time.sleep(30)
        os.kill(one.own(), signal.SIGCONT)
        found = wait(lambda: one.service("bad") not in (None, before["bad"]), 30)
        kept = one.service("good") == before["good"]
        return "back after %s, the other service %s" % (seconds(found), "kept" if kept else "restarted")


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
            return "%s, the other service %s" % (lives, found)
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
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
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
        os.kill(before, signal.SIGKILL)
        time.sleep(3)
        subprocess.run(["prlimit", "--pid", str(one.own()), "--nofile=1024:"], check=True)
        if not one.alive():
            return "DIED"
        return "back after " + seconds(wait(lambda: one.service("bad") not in (None, before), 30))


def full_disk(kind):
    one = kind(LIVE)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", one.logs], check=True)
    try:
        one.start()
        time.sleep(1.5)
        with contextlib.suppress(OSError), open(one.logs + "/fill", "wb") as file:
            file.write(b"x" * 65536)
        return "back after " + seconds(back_after(one))
    finally:
        one.end()
        subprocess.run(["umount", "-l", one.logs], check=False)


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
        os.kill(one.own(), signal.SIGTERM)
        ended = wait(lambda: not one.alive(), 15)
        return answer + (", SIGTERM ends it" if ended is not None else ", SIGTERM does not end it")
    finally:
        if frozen:
            subprocess.run(["fsfreeze", "-u", one.logs], check=False)
        one.end()
        subprocess.run(["umount", "-l", one.logs], check=False)
        with contextlib.suppress(OSError):
            os.unlink(image)


def endless_line(kind):
    body = "(head -c 256M /dev/zero | tr '\\0' x; head -c 256M /dev/zero | tr '\\0' x >&2) &\n" + LIVE
    with running(kind, body) as one:
        time.sleep(12)
        with open("/proc/%d/status" % one.own()) as file:
            peak = next(line.split()[1] for line in file if line.startswith("VmHWM"))
        return "peak %d MiB" % (int(peak) // 1024)


def restarts(kind):
    with running(kind) as one:
        counted = 0
        begun = time.monotonic()
        while time.monotonic() - begun < 20:
            pid = one.service("bad")
            if pid:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                    counted += 1
            time.sleep(0.02)
        wait(lambda: one.service("bad"), 30)
        left = sum(".sh" in line and not is_zombie(pid) for pid, line in one.others().items())
        return "%d kills in 20 s, %d services run" % (counted, left)


FAULTS = [
    ("service killed", "`kill -9` of the service", crash),
    ("service hangs", "`kill -STOP` of the service", stopped),
    ("helper in a session of its own, 3 kills of its service", "`(setsid sleep 100000 &)` in the service", orphans),
    ("service that daemonises", "`setsid sleep 100000 & exit 0`", daemonises),
    ("supervisor killed, 3 s later", "`kill -9` of the supervisor", supervisor_killed),
    ("supervisor stopped for 30 s, service killed meanwhile", "`kill -STOP`, then `-CONT`", supervisor_stopped),
    ("fork bomb under a limit of 60 tasks for all", "`pids.max` of 60 above the supervisor", fork_bomb),
    ("no descriptors for 3 s, service killed meanwhile", "`prlimit --nofile=3:` on the supervisor", no_descriptors),
    ("full disk for logs, service killed", "tmpfs of 64 KiB, filled", full_disk),
    ("frozen disk for logs, service killed", "`fsfreeze -f`", frozen_disk),
    ("line without end on both pipes, 256 MiB each", "`head -c 256M /dev/zero`", endless_line),
    ("killed again and again", "`kill -9` every 20 ms", restarts),
]


def main():
    Vigie.program = os.path.abspath(sys.argv[1])
    kinds = [Supervisord, S6, Runit, Vigie]
    print("| fault | made by | " + " | ".join(kind.name for kind in kinds) + " |")
    print("|---|---|" + "---|" * len(kinds))
    for title, made_by, fault in FAULTS:
        cells = []
        for kind in kinds:
            if not shutil.which(kind.program):
                cells.append("not installed")
                continue
            try:
                cells.append(fault(kind))
            except Exception as error:  # One fault that cannot be made must not hide the others.
                cells.append("not measured: %s" % error)
        print("| %s | %s | %s |" % (title, made_by, " | ".join(cells)), flush=True)


if __name__ == "__main__":
    main()
