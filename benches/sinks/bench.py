#!/usr/bin/env python3
"""make bench-sinks: how fast sinks deliver and what kill -9 of both ends loses, beside rsyslog's queues in the same run.

usage: bench.py VIGIE ALERT_STORM [--alerts N] [--kills N] [--seed N]

Ours: an agent whose journal holds N alerts of a storm gets its sink by a reload, and sends them to a rsyslog of the bench.
The peer: the same lines in a file, read by rsyslog's imfile into a queue on disk, which another rsyslog sends on. Rates
count to the last stored line. Nothing leaves the loopback interface, and everything is in a directory that goes away.
"""

import argparse
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

CEILING = 600


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait(what, condition, ceiling=CEILING):
    start = time.monotonic()
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() - start > ceiling:
            raise SystemExit(f"waited too long: {what}")
        time.sleep(0.02)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


class Rsyslog:
    def __init__(self, directory, text, ports=()):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir()
        self.ports = ports
        (self.directory / "conf").write_text(f'global(workDirectory="{self.directory}" maxMessageSize="64k")\n' + text)
        self.process = None

    def start(self):
        (self.directory / "pid").unlink(missing_ok=True)
        program = shutil.which("rsyslogd", path=os.environ["PATH"] + ":/usr/sbin")
        arguments = [program, "-n", "-i", self.directory / "pid", "-f", self.directory / "conf"]
        self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for port in self.ports:
            wait("rsyslog listens", lambda port=port: listens(port))

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def receiver(directory):
    tcp, relp = free_port(), free_port()
    rules = "".join(
        f'ruleset(name="{name}") {{ action(type="omfile" file="{directory}/{name}" template="raw" flushOnTXEnd="on") }}\n'
        for name in ("tcp", "relp")
    )
    text = f"""module(load="imtcp")
module(load="imrelp")
main_queue(queue.type="Direct")
template(name="raw" type="string" string="%rawmsg%\\n")
{rules}input(type="imtcp" port="{tcp}" address="127.0.0.1" ruleset="tcp")
input(type="imrelp" port="{relp}" address="127.0.0.1" ruleset="relp" maxDataSize="64k")
"""
    return Rsyslog(directory, text, (tcp, relp)), {"tcp": tcp, "relp": relp}


def count_lines(path):
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


class Agent:
    def __init__(self, directory, vigie, storm, alerts):
        self.directory = pathlib.Path(directory)
        (self.directory / "modules.d").mkdir(parents=True)
        self.vigie, self.process = vigie, None
        self.head = f"""[agent]
run_dir = "{directory}/run"
state_dir = "{directory}/state"
persistconfigdir = "{directory}/modules.d"
[logging]
mode = "file"
file = "{directory}/log"
[[module]]
name = "fswatch"
enabled = false
[[module]]
name = "alert_storm"
kind = "persistent"
command = ["{storm}", "{alerts}"]
"""
        self.configure("")

    def configure(self, sinks):
        new = self.directory / "vigie.toml.new"
        new.write_text(self.head + sinks)
        new.rename(self.directory / "vigie.toml")

    def start(self):
        arguments = [self.vigie, "agent", "--config", self.directory / "vigie.toml"]
        self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait("the agent answers", self.status)

    def run(self, *arguments):
        return subprocess.run(
            [self.vigie, "--run-dir", self.directory / "run", *arguments], capture_output=True, text=True, check=False
        )

    def status(self):
        ran = self.run("status", "--json")
        return json.loads(ran.stdout) if ran.stdout.startswith("{") else None

    def sink(self):
        status = self.status()
        return status["sinks"][0] if status and status.get("sinks") else {}

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait()


def sink(transport, port):
    return f"""[[sink]]
name = "bench"
kind = "syslog"
transport = "{transport}"
address = "127.0.0.1:{port}"
begin = "oldest"
batch_alerts = 2000
"""


def lost(path, numbers, pattern):
    found = {}
    for line in open(path, encoding="utf-8", errors="replace"):
        match = re.search(pattern, line)
        # 0 is the number of test alerts.
        if match and int(match[1]) in numbers:
            marked = 'resent="1"' in line
            total, unmarked = found.get(int(match[1]), (0, 0))
            found[int(match[1])] = (total + 1, unmarked + (not marked))
    missing = sum(number not in found for number in numbers)
    doubles = sum(total - 1 for total, _ in found.values())
    unmarked = sum(unmarked > 1 for _, unmarked in found.values())
    return missing, doubles, unmarked


def ours(base, arguments, transport, kills):
    peer, ports = receiver(base / f"receiver-{transport}-{kills}")
    peer.start()
    agent = Agent(base / f"agent-{transport}-{kills}", arguments.vigie, arguments.storm, arguments.alerts)
    agent.start()
    wait("the storm is recorded", lambda: agent.status()["journal"]["recorded"] >= arguments.alerts)
    recorded = agent.status()["journal"]["recorded"]
    out = peer.directory / transport
    agent.configure(sink(transport, ports[transport]))
    began = time.monotonic()
    agent.run("reload")
    for at in range(kills):
        moment = recorded * (at + 1) // (kills + 2)
        wait("it goes on", lambda moment=moment: agent.sink().get("position", 0) >= moment)
        if random.random() < 0.5:
            peer.kill()
            peer.start()
        else:
            agent.kill()
            agent.start()
        agent.run("sink", "test", "bench")
    wait("everything is sent", lambda: agent.sink().get("position") == recorded)
    wait("everything is stored", lambda: count_lines(out) >= recorded)
    seconds = time.monotonic() - began
    agent.kill(signal.SIGTERM)
    time.sleep(0.5)
    peer.kill()
    return recorded / seconds, lost(out, range(1, recorded + 1), r'seq="(\d+)"')


PEERS = {
    "disk-assisted queue, TCP": (
        "tcp", 'queue.type="LinkedList" queue.filename="q"',
        'type="omfwd" target="127.0.0.1" protocol="tcp" TCP_Framing="octet-counted"',
    ),
    "Disk queue, syncQueueFiles, RELP": (
        "relp", 'queue.type="Disk" queue.filename="q" queue.syncQueueFiles="on"', 'type="omrelp" target="127.0.0.1"'),
}


def theirs(base, arguments, name, kills):
    transport, queue, action = PEERS[name]
    peer, ports = receiver(base / f"peer-receiver-{transport}-{kills}")
    peer.start()
    source = base / f"lines-{transport}-{kills}"
    source.touch()
    settings = (
        'queue.size="100000" queue.maxDiskSpace="2g" queue.saveOnShutdown="on" queue.checkpointInterval="100" '
        'action.resumeRetryCount="-1" action.resumeInterval="1"'
    )
    sender = Rsyslog(
        base / f"peer-sender-{transport}-{kills}",
        f"""module(load="imfile")
module(load="omrelp")
main_queue(queue.type="Direct")
template(name="raw" type="string" string="<36>1 - h a - - - %msg%")
ruleset(name="s" queue.type="Direct") {{ action({action} port="{ports[transport]}" template="raw" {queue} {settings}) }}
input(type="imfile" file="{source}" tag="b" ruleset="s" reopenOnTruncate="on" persistStateInterval="1000")
""",
    )
    sender.start()
    time.sleep(2.5)
    out = peer.directory / transport
    began = time.monotonic()
    with open(source, "w", encoding="utf-8") as file:
        for number in range(1, arguments.alerts + 1):
            file.write(f'{{"n":{number},"text":"{"x" * 330}"}}\n')
    for at in range(kills):
        moment = arguments.alerts * (at + 1) // (kills + 2)
        stuck = time.monotonic() + 30
        wait("it goes on", lambda moment=moment, stuck=stuck: count_lines(out) >= moment or time.monotonic() > stuck)
        one = peer if random.random() < 0.5 else sender
        one.kill()
        one.start()
    newest, since = 0, time.monotonic()
    while newest < arguments.alerts and time.monotonic() - since < 25:
        now = count_lines(out)
        if now != newest:
            newest, since = now, time.monotonic()
        time.sleep(0.05)
    seconds = since - began
    sender.kill()
    peer.kill()
    return newest / seconds, lost(out, range(1, arguments.alerts + 1), r'"n":(\d+)')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("vigie", type=os.path.abspath)
    parser.add_argument("storm", type=os.path.abspath)
    parser.add_argument("--alerts", type=int, default=300_000)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    print(f"{arguments.alerts} alerts, seed {arguments.seed}, load {os.getloadavg()[0]:.1f}", flush=True)
    print(f"{'':<44}{'alerts/s':>10}{'lost':>10}{'doubled':>10}{'unmarked':>10}", flush=True)
    with tempfile.TemporaryDirectory(prefix="vigie-bench-") as directory:
        base = pathlib.Path(directory)
        for kills in dict.fromkeys((0, arguments.kills)):
            rows = [(f"vigie, {way}", lambda way=way: ours(base, arguments, way, kills)) for way in ("tcp", "relp")]
            rows += [(f"rsyslog, {name}", lambda name=name: theirs(base, arguments, name, kills)) for name in PEERS]
            for name, measure in rows:
                rate, (missing, doubles, unmarked) = measure()
                shown = f"{name}, {kills} kills" if kills else name
                # Nobody marks the peer's doubles.
                marks = unmarked if name.startswith("vigie") else doubles
                print(f"{shown:<44}{rate:>10.0f}{missing:>10}{doubles:>10}{marks:>10}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
