"""The supervisors of the torture table: how each is configured, started, told things and ended.

Every supervisor runs the same two services, `good` and `bad`, in a directory of its own; `bad` has the fault. Processes are
recognised by a mark in their environment, so nobody escapes the count.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

SHELL = "/bin/sh"
# A service that answers the agent's heartbeats; for the others its stdin says nothing and it only waits.
LIVE = 'while read -r line; do case $line in *\'"ping"\'*) printf "%s\\n" "$line";; esac; done; while :; do sleep 1; done\n'


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


def variable(pid, name):
    """A variable in the environment of a process."""
    with contextlib.suppress(OSError), open("/proc/%d/environ" % pid, "rb") as file:
        for one in file.read().split(b"\0"):
            if one.startswith(name.encode() + b"="):
                return one.split(b"=", 1)[1].decode()
    return None


def wait(condition, seconds):
    """Seconds until a condition held; None when it did not."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        value = condition()
        if value:
            return time.monotonic() - begun
        time.sleep(0.01)
    return None


def is_zombie(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def is_service(line):
    """Whether a command line is a service, or a helper of one."""
    return ("sleep" in line or ".sh" in line) and " launch " not in line


class Supervisor:
    """One supervisor with the services good and bad, whose scripts are given."""

    name = ""
    program = ""
    # What ends it and all its services in order.
    stop_signal = signal.SIGTERM

    def __init__(self, bad, enter=(), **environment):
        self.directory = tempfile.mkdtemp(prefix="torture-")
        self.logs = os.path.join(self.directory, "logs")
        os.mkdir(self.logs)
        self.mark = os.path.basename(self.directory)
        self.environment = {"PATH": os.environ["PATH"], "TORTURE": self.mark, **environment}
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

    def configuration(self):
        """The file that is cut."""
        raise NotImplementedError

    def reload(self):
        """Has the configuration read again; returns what it said, if it says anything."""
        raise NotImplementedError

    def reopen_logs(self):
        """Tells it that its logs were moved away."""

    def run(self, *command):
        """Runs a command of this supervisor's and returns its exit code."""
        with open(os.path.join(self.directory, "commands"), "a") as output:
            try:
                return subprocess.run(command, cwd=self.directory, env={"PATH": os.environ["PATH"]}, timeout=30, check=False,
                                      stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT).returncode
            except subprocess.TimeoutExpired:
                return None

    def start(self):
        self.child = subprocess.Popen(
            self.enter + self.command(), cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=open(os.path.join(self.directory, "out"), "a"), stderr=subprocess.STDOUT)
        if wait(lambda: self.service("good") and (self.service("bad") or True), 15) is None:
            raise RuntimeError("%s does not start its service" % self.name)
        return self

    def services(self, name):
        """The processes that are a service."""
        script = self.script(name)
        return [pid for pid, line in processes(self.mark).items()
                if line.split()[:2] == [SHELL, script] and not is_zombie(pid) and is_first(pid, script)]

    def service(self, name):
        """The process that is a service, if it runs."""
        return next(iter(self.services(name)), None)

    def own(self):
        return self.child.pid

    def alive(self):
        return self.child.poll() is None

    def others(self):
        """What is there beside the supervisor's own processes."""
        return {pid: line for pid, line in processes(self.mark).items() if is_service(line) and not is_zombie(pid)}

    def status(self):
        """What its status says meanwhile; only Vigie's is written down."""
        return ""

    def stop(self):
        """Ends it in order; returns how many processes of services it leaves."""
        if self.alive():
            self.child.send_signal(self.stop_signal)
            wait(lambda: not self.alive(), 15)
        wait(lambda: not self.others(), 5)
        return len(self.others())

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


def is_first(pid, script):
    """Not a part that a shell forked of itself: its parent does not run the same script."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            parent = file.read().rsplit(")", 1)[1].split()[1]
        with open("/proc/%s/cmdline" % parent, "rb") as file:
            return file.read().split(b"\0")[:2] != [SHELL.encode(), script.encode()]
    except OSError:
        return True


class Supervisord(Supervisor):
    name, program = "supervisord", "supervisord"

    def configure(self):
        text = "[supervisord]\nnodaemon=true\nlogfile=%s/main.log\npidfile=%s/pid\n" % (self.logs, self.directory)
        control = "[unix_http_server]\nfile=%s/socket\n" % self.directory
        interface = "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
        text += control + interface
        for name in ("good", "bad"):
            text += ("[program:%s]\ncommand=%s %s\nautorestart=true\nstartsecs=0\nstartretries=1000000\nredirect_stderr=true\n"
                     "stdout_logfile=%s/%s.log\n") % (name, SHELL, self.script(name), self.logs, name)
        self.write("supervisord.conf", text)
        self.write("ctl.conf", "[supervisorctl]\nserverurl=unix://%s/socket\n" % self.directory)

    def command(self):
        return ["supervisord", "-c", "supervisord.conf"]

    def configuration(self):
        return os.path.join(self.directory, "supervisord.conf")

    def reload(self):
        return self.run("supervisorctl", "-c", "ctl.conf", "update")

    def reopen_logs(self):
        self.child.send_signal(signal.SIGUSR2)


class S6(Supervisor):
    name, program = "s6", "s6-svscan"

    def configure(self):
        for name in ("good", "bad"):
            self.write("scan/%s/run" % name, "#!/bin/sh\nexec %s %s >>%s/%s.log 2>&1\n" % (SHELL, self.script(name), self.logs, name))

    def command(self):
        return ["s6-svscan", "scan"]

    def configuration(self):
        return os.path.join(self.directory, "scan/bad/run")

    def reload(self):
        return self.run("s6-svscanctl", "-a", "scan")


class Runit(S6):
    name, program = "runit", "runsvdir"
    # SIGTERM ends runsvdir alone.
    stop_signal = signal.SIGHUP

    def command(self):
        return ["runsvdir", "scan"]

    def reload(self):
        # It looks every five seconds by itself.
        return None


class Vigie(Supervisor):
    name, program = "Vigie", ""
    # Further lines of the configuration's part about restarts.
    restart = "breaker_deaths = 0\nbackoff_max = \"1s\"\n"

    def configure(self):
        self.watcher = None
        text = ("[agent]\nrun_dir = \"%s/run\"\nstate_dir = \"%s/state\"\npersistconfigdir = \"%s\"\nheartbeat_interval = \"1s\"\n"
                "[logging]\nmode = \"file\"\nfile = \"%s/agent.log\"\n[restart]\n%s"
                "[[module]]\nname = \"fswatch\"\nenabled = false\n") % (
                    self.directory, self.directory, self.directory, self.logs, self.restart)
        for name in ("good", "bad"):
            text += "[[module]]\nname = \"%s\"\ncommand = [\"%s\", \"%s\"]\nenv = { TORTURE = \"%s\" }\n" % (
                name, SHELL, self.script(name), self.mark)
        self.write("vigie.toml", text)
        os.chmod(self.configuration(), 0o644)

    def command(self):
        return [Vigie.program, "agent", "--config", "vigie.toml"]

    def configuration(self):
        return os.path.join(self.directory, "vigie.toml")

    def reload(self):
        return self.run(Vigie.program, "reload", "--run-dir", "run")

    def reopen_logs(self):
        self.child.send_signal(signal.SIGHUP)

    def start(self):
        super().start()
        self.watcher = Watcher(self)
        return self

    def status(self):
        if self.watcher:
            self.watcher.stop()
            return self.watcher.text()
        return ""

    def end(self):
        if self.watcher:
            self.watcher.stop()
        super().end()


class Watcher:
    """Asks the agent all the time how it is, on one connection, and keeps every condition that it named."""

    def __init__(self, agent):
        self.agent = agent
        self.names = {}
        self.exit = 0
        self.silent = 0.0
        self.newest = {}
        self.over = False
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def stop(self):
        self.over = True
        self.thread.join(5)

    def watch(self):
        connection = None
        while not self.over:
            begun = time.monotonic()
            try:
                if connection is None:
                    connection = socket.socket(socket.AF_UNIX)
                    connection.settimeout(40)
                    connection.connect(os.path.join(self.agent.directory, "run/agent.sock"))
                    reader = connection.makefile("rb")
                connection.sendall(b'{"status":{}}\n')
                self.hear(json.loads(reader.readline())["status"])
            except (OSError, ValueError, KeyError):
                connection = None
                time.sleep(0.02)
                continue
            self.silent = max(self.silent, time.monotonic() - begun)
            time.sleep(0.02)

    def hear(self, status):
        self.newest = status
        for condition in status.get("conditions", []):
            about = condition["about"]
            about = about if isinstance(about, str) else next(iter(about.values()))
            if (about, condition["name"]) not in self.names:
                self.names[about, condition["name"]] = condition["severity"]
                # As `vigie status` would exit with this answer; a command of its own would come too late for a short one.
                self.exit = max(self.exit, int(status["health"] != "healthy"))

    def module(self, name="bad"):
        return next((one for one in self.newest.get("modules", []) if one["name"] == name), {})

    def text(self):
        names = ", ".join("`%s`%s" % (name, "" if about == "agent" else " of %s" % about) for about, name in self.names)
        text = "exit %d: %s" % (self.exit, names) if names else "exit 0"
        ended = self.module().get("last_exit")
        if ended:
            text += "; last exit of bad `%s`" % ended
        return text
