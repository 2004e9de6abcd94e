#!/usr/bin/env python3
"""What the same load costs under nothing, the module events, auditd and bpftrace, in alternating rounds.

Run by `make bench-events` as root. Each load runs under each observer in turn, so that what else the machine does meets all
of them. Counted is processor time: of the load itself, and of whoever observes (daemon and kernel's thread). What an
observer cannot do here is said and left out. The state of the kernel's audit is put back as it was.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

LOAD = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int count, char **words) {
  if (count == 1) return 0;
  int many = atoi(words[2]);
  if (!strcmp(words[1], "exec")) {
    char *none[] = {words[0], 0};
    for (int i = 0; i < many; i++) {
      pid_t child;
      if (posix_spawn(&child, words[0], 0, 0, none, none + 1)) return 1;
      waitpid(child, 0, 0);
    }
  } else if (!strcmp(words[1], "fork")) {
    for (int i = 0; i < many; i++) {
      pid_t child = vfork();
      if (child < 0) return 1;
      if (!child) _exit(0);
      waitpid(child, 0, 0);
    }
  } else {
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t bytes = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (void *)&at, bytes) || listen(listener, 64) || getsockname(listener, (void *)&at, &bytes)) return 1;
    struct linger now = {1, 0};
    for (int i = 0; i < many; i++) {
      int fd = socket(AF_INET, SOCK_STREAM, 0);
      if (connect(fd, (void *)&at, sizeof at)) return 1;
      int other = accept(listener, 0, 0);
      setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
      close(fd);
      close(other);
    }
  }
  return 0;
}
"""


def say(text):
    print(text, flush=True)


def until(what, done, seconds=60):
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def spent(pid):
    """Processor seconds of the threads of a process, to the nanosecond."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def below(pid, agent):
    """Whether a process is a descendant of another one."""
    while pid > 1 and pid != agent:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return pid == agent


def module_of(agent):
    """The process of the module events below an agent."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().split(b"\0")[1:4] == [b"module", b"persist", b"events"]:
                if below(int(entry.name), agent):
                    return int(entry.name)
        except OSError:
            pass
    raise RuntimeError("the module has no process")


def peak_kib(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def pss_kib(pid):
    """Memory with what other processes share divided among them: pages of the program's file, and the ring, which is
    mapped twice, so that VmHWM has it twice."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        # A thread of the kernel.
        pass
    return 0


def kernel_thread(name):
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "comm").read_text().strip() == name:
                    return int(entry.name)
            except OSError:
                pass
    return None


class Nothing:
    name = "nothing"

    def __init__(self, *_):
        pass

    def start(self):
        pass

    def pids(self):
        return []

    def settle(self):
        pass

    def lost(self):
        return 0

    def stop(self):
        pass


class Vigie(Nothing):
    name = "vigie"

    def __init__(self, work, program):
        self.dir = Path(tempfile.mkdtemp(dir=work))
        self.program = program

    def start(self):
        (self.dir / "modules.d").mkdir(exist_ok=True)
        config = self.dir / "vigie.toml"
        config.write_text(
            f'[agent]\nrun_dir = "{self.dir}/run"\nstate_dir = "{self.dir}/state"\n'
            f'persistconfigdir = "{self.dir}/modules.d"\n[logging]\nmode = "file"\nfile = "{self.dir}/log"\n'
            '[[module]]\nname = "events"\nkind = "persistent"\n'
            '[[module]]\nname = "fswatch"\nkind = "persistent"\nenabled = false\n'
        )
        quiet = subprocess.DEVNULL
        command = [self.program, "agent", "--config", str(config)]
        self.agent = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        until("events has a source", lambda: self.status().get("source") is not None)
        if self.status()["source"] != "bpf":
            raise RuntimeError(f"events has no BPF here: {self.status().get('not_used')}")
        self.module = module_of(self.agent.pid)

    def status(self):
        ask = [self.program, "query", "events", "--json", "--run-dir", str(self.dir / "run")]
        answer = subprocess.run(ask, capture_output=True, text=True)
        try:
            return json.loads(answer.stdout)["elements"]["status"]
        except (ValueError, KeyError, TypeError):
            return {}

    def pids(self):
        return [self.module]

    def settle(self):
        # The ring is looked at ten times a second.
        time.sleep(0.5)

    def lost(self):
        status = self.status()
        return status["recursion_misses"] + sum(kind["lost"] for kind in status["counts"].values())

    def stop(self):
        self.agent.terminate()
        self.agent.wait(30)


class Auditd(Nothing):
    name = "auditd"
    rules = [
        ["-a", "always,exit", "-F", "arch=b64", "-S", "execve", "-k", "vigie-bench"],
        ["-a", "always,exit", "-F", "arch=b64", "-S", "connect,accept,accept4", "-k", "vigie-bench"],
    ]

    def __init__(self, work, _):
        self.dir = Path(tempfile.mkdtemp(dir=work))
        if not shutil.which("auditd") or not shutil.which("auditctl"):
            raise RuntimeError("not installed (apt-get install auditd)")
        if kernel_thread("auditd"):
            raise RuntimeError("another auditd runs here, and stays untouched")

    def control(self, *words):
        return subprocess.run(["auditctl", *words], capture_output=True, text=True).stdout

    def state(self, key):
        for line in self.control("-s").splitlines():
            if line.startswith(key + " "):
                return line.split()[1]
        return "0"

    def start(self):
        self.before = {key: self.state(key) for key in ("enabled", "backlog_limit")}
        if self.before["enabled"] == "2":
            raise RuntimeError("its rules are locked")
        config = self.dir / "auditd.conf"
        config.write_text(
            f"log_file = {self.dir}/audit.log\nlog_format = RAW\nflush = INCREMENTAL_ASYNC\nfreq = 50\nmax_log_file = 500\n"
            "num_logs = 2\nmax_log_file_action = ROTATE\nspace_left = 75\nspace_left_action = IGNORE\nadmin_space_left = 50\n"
            "admin_space_left_action = IGNORE\ndisk_full_action = IGNORE\ndisk_error_action = IGNORE\npriority_boost = 0\n"
        )
        quiet = subprocess.DEVNULL
        command = ["auditd", "-n", "-c", str(self.dir)]
        self.daemon = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        until("auditd is the kernel's daemon", lambda: self.state("pid") == str(self.daemon.pid), 15)
        self.control("-e", "1")
        self.control("-b", "8192")
        for rule in self.rules:
            self.control(*rule)
        self.lost_before = int(self.state("lost"))

    def pids(self):
        thread = kernel_thread("kauditd")
        return [self.daemon.pid] + ([thread] if thread else [])

    def settle(self):
        until("auditd has taken all", lambda: self.state("backlog") == "0", 60)

    def lost(self):
        return int(self.state("lost")) - self.lost_before

    def stop(self):
        for rule in self.rules:
            self.control("-d", *rule[1:])
        self.control("-e", self.before["enabled"])
        self.control("-b", self.before["backlog_limit"])
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(30)


class Bpftrace(Nothing):
    name = "bpftrace"
    program = (
        'tracepoint:syscalls:sys_enter_execve { printf("%d %s ", pid, comm); join(args->argv); } '
        'tracepoint:sock:inet_sock_set_state { printf("%d %d %d\\n", pid, args->oldstate, args->newstate); }'
    )

    def __init__(self, work, _):
        self.dir = Path(tempfile.mkdtemp(dir=work))
        if not shutil.which("bpftrace"):
            raise RuntimeError("not installed (apt-get install bpftrace)")

    def start(self):
        self.out = self.dir / "out"
        self.errors = self.dir / "errors"
        # Tracepoints are listed in tracefs, which some hosts have not mounted: then it is, for this process alone.
        script = 'mountpoint -q /sys/kernel/tracing || mount -t tracefs none /sys/kernel/tracing; exec bpftrace -e "$0"'
        with open(self.out, "wb") as out, open(self.errors, "wb") as errors:
            command = ["unshare", "-m", "sh", "-c", script, self.program]
            self.process = subprocess.Popen(command, stdout=out, stderr=errors)

        def attached():
            if self.process.poll() is not None:
                raise RuntimeError(self.errors.read_text().strip()[:200] or "it ended")
            subprocess.run(["/bin/true"])
            return self.out.stat().st_size > 100

        until("bpftrace prints", attached, 60)

    def pids(self):
        return [self.process.pid]

    def settle(self):
        size = -1
        while size != self.out.stat().st_size:
            size = self.out.stat().st_size
            time.sleep(0.3)

    def lost(self):
        words = self.errors.read_text().split()
        return sum(int(words[at + 1]) for at, word in enumerate(words[:-1]) if word == "Lost" and words[at + 1].isdigit())

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


def run(command, **more):
    """Processor seconds of a command with its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, **more)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def c_project(work, files):
    """A project in C of so many files."""
    at = work / "project"
    at.mkdir(exist_ok=True)
    for number in range(files):
        body = "".join(f"int f{number}_{n}(int x){{return x*{n}+f{number}_{max(n - 1, 0)}(x-1);}}\n" for n in range(1, 40))
        (at / f"a{number}.c").write_text(f"int f{number}_0(int x){{return x;}}\n{body}")
    rule = "OBJECTS = $(patsubst %.c,%.o,$(wildcard *.c))\nall: $(OBJECTS)\n%.o: %.c\n\tcc -O1 -c -o $@ $<\n"
    (at / "Makefile").write_text(rule + "clean:\n\trm -f *.o\n")
    return at


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--vigie", default="target/release/vigie", help="the program to measure")
    parse.add_argument("--quick", action="store_true", help="small numbers: whether it works, not what it costs")
    parse.add_argument("--rounds", type=int, help="rounds, 3 or with --quick 1")
    parse.add_argument("--json", help="write the figures there as well")
    arguments = parse.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench-events: run as root")
    program = shutil.which(arguments.vigie) or sys.exit(f"bench-events: {arguments.vigie} is not there; build it first")
    program = str(Path(program).resolve())
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    small = arguments.quick
    sizes = {"exec": 1000 if small else 50_000, "connect": 2000 if small else 200_000, "fork": 1000 if small else 100_000}
    with tempfile.TemporaryDirectory(prefix="bench-events.") as name:
        work = Path(name)
        (work / "load.c").write_text(LOAD)
        subprocess.run(["cc", "-O1", "-static", "-o", work / "load", work / "load.c"], check=True)
        project = c_project(work, 8 if small else 120)
        loads = {kind: (lambda kind=kind: run([str(work / "load"), kind, str(sizes[kind])])) for kind in sizes}

        def build():
            subprocess.run(["make", "-s", "clean"], cwd=project, check=True)
            return run(["make", "-s", "-j2"], cwd=project)

        loads["build"] = build
        figures = {}
        missing = {}
        for _ in range(rounds):
            for observer_of in (Nothing, Vigie, Auditd, Bpftrace):
                if observer_of.name in missing:
                    continue
                observer = None
                try:
                    observer = observer_of(work, program)
                    observer.start()
                    for kind, load in loads.items():
                        before = {pid: spent(pid) for pid in observer.pids()}
                        own = load()
                        observer.settle()
                        theirs = sum(spent(pid) - before.get(pid, 0) for pid in observer.pids())
                        figures.setdefault((observer_of.name, kind), []).append((own, theirs))
                    peak = max((peak_kib(pid) for pid in observer.pids()), default=0)
                    figures.setdefault((observer_of.name, "lost"), []).append((observer.lost(), peak))
                    shared = max((pss_kib(pid) for pid in observer.pids()), default=0)
                    figures.setdefault((observer_of.name, "pss"), []).append(shared)
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                    missing[observer_of.name] = str(error)
                finally:
                    if observer is not None and not isinstance(getattr(observer, "before", {}), str):
                        try:
                            observer.stop()
                        except (AttributeError, OSError, subprocess.SubprocessError):
                            # It had not started.
                            pass
    report = {}
    say(f"{rounds} rounds of {sizes['exec']} execs, {sizes['connect']} connections, {sizes['fork']} forks, a build in C")
    say(f"{'':10}{'load':>9}{'us/event':>11}{'observer':>11}{'slow-down':>11}")
    for observer in ("nothing", "vigie", "auditd", "bpftrace"):
        if observer in missing:
            say(f"{observer:10} skipped: {missing[observer]}")
            continue
        for kind in (*sizes, "build"):
            pairs = list(zip(figures["nothing", kind], figures[observer, kind]))
            slow = median((own - plain) / plain * 100 for (plain, _), (own, _) in pairs)
            theirs = median(theirs for _, (_, theirs) in pairs)
            extra = median(own - plain + theirs for (plain, _), (own, theirs) in pairs)
            each = extra / sizes[kind] * 1e6 if kind in sizes else None
            shown = f"{each:11.2f}" if each is not None else f"{'':11}"
            say(f"{observer:10}{kind:>9}{shown}{theirs * 1e3:9.0f}ms{slow:10.1f}%")
            report[f"{observer}.{kind}"] = {"us_per_event": each, "observer_seconds": theirs, "slow_down_percent": slow}
        lost, peak = zip(*figures[observer, "lost"])
        if observer != "nothing":
            say(f"{observer:10} lost {sum(lost)}, peak memory {max(peak) / 1024:.1f} MiB, "
                f"{max(figures[observer, 'pss']) / 1024:.1f} MiB with shared pages divided")
        report[f"{observer}.lost"] = sum(lost)
        report[f"{observer}.peak_kib"] = max(peak)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")
    # What is ours must have worked.
    return 1 if "vigie" in missing else 0


if __name__ == "__main__":
    sys.exit(main())
