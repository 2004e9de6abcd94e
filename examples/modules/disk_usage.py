#!/usr/bin/env python3
"""A persistent module in Python's standard library: alerts when a file system is nearly full.

Configuration (disk_usage.cfg, or disk_usage.toml in TOML):

    [disk_usage]
    path = /
    path = /var
    limit = 90          ; per cent
    interval = 60       ; seconds

A query {"path": "/srv"} answers how full the file system of /srv is.
"""

import json
import os
import queue
import random
import shutil
import socket
import sys
import threading

NAME = "disk_usage"
MAX_REQUEST_BYTES = 1024 * 1024
CLIENT_TIMEOUT_SECS = 10
MAX_CLIENTS = 16

output = threading.Lock()


def send(message):
    """Writes one message: one line, whole, at once. Several threads may call it."""
    with output:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def log(text):
    send({"class": "log", "parameters": {"message": text}})


class Outbox:
    """Alerts that the agent has not acknowledged, on disk before they are sent.

    After a crash they are sent again with the same ids, and the agent drops those that it has already.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.path = None
        # Every life numbers its alerts anew: after a power failure the file may not know which numbers were
        # given, and an alert with an old id would be taken for a repetition.
        self.epoch = f"{random.getrandbits(64):016x}"
        self.next = 1
        self.pending = {}

    def open(self, directory):
        """Takes over what an earlier life left in `directory`."""
        with self.lock:
            self.path = os.path.join(directory, f"alerts-{NAME}.json")
            try:
                with open(self.path, encoding="utf-8") as file:
                    self.pending = json.load(file)
            except FileNotFoundError:
                pass
            for id, text in self.pending.items():
                self.send(id, text)

    def alert(self, severity, text, **details):
        text = json.dumps({"severity": severity, "alert": text, **details})
        with self.lock:
            id = f"{self.epoch}-{self.next}"
            self.next += 1
            self.pending[id] = text
            self.save()
            self.send(id, text)

    def acknowledge(self, id):
        with self.lock:
            if self.pending.pop(id, None) is not None:
                self.save()

    def save(self):
        # A new file in the old one's place: a crash leaves one of the two, never half of one.
        if self.path:
            with open(self.path + ".new", "w", encoding="utf-8") as file:
                json.dump(self.pending, file)
            os.replace(self.path + ".new", self.path)

    @staticmethod
    def send(id, text):
        send({"class": "alert", "parameters": {"message": text, "id": id}})


def percent_used(path):
    usage = shutil.disk_usage(path)
    return round(100 * usage.used / max(usage.total, 1), 1)


def read_config(parameters):
    """The module's own section, with its defaults. Keys may have any case."""
    sections = {key.lower(): value for key, value in (parameters.get("config") or {}).items()}
    section = {key.lower(): value for key, value in (sections.get(NAME) or {}).items()}
    paths = section.get("path", ["/"])
    return {
        # A key that occurs once is a string, a repeated one a list; all values may be text.
        "paths": [paths] if isinstance(paths, str) else list(paths),
        "limit": float(section.get("limit", 90)),
        "interval": max(float(section.get("interval", 60)), 1),
    }


def watch(configs, outbox):
    """Looks at the file systems now and then; a new configuration takes effect at once."""
    config = configs.get()
    above = set()
    while True:
        for path in config["paths"]:
            try:
                used = percent_used(path)
            except OSError as error:
                log(f"cannot look at {path!r}: {error}")
                continue
            if used < config["limit"]:
                above.discard(path)
            elif path not in above:
                above.add(path)
                outbox.alert("high", f"file system of {path} is {used} % full", path=path, percent=used)
        try:
            config = configs.get(timeout=config["interval"])
            above.clear()
        except queue.Empty:
            pass


def answer(request):
    """The result for one query."""
    result = {"foundanything": False, "success": False, "elements": None, "statistics": None, "errors": None}
    try:
        message = json.loads(request)
        if message["class"] != "parameters":
            raise ValueError(f"unexpected class {message['class']!r}")
        path = (message.get("parameters") or {}).get("path", "/")
        used = percent_used(path)
        # In extra privacy mode the answer does not say what identifies.
        shown = "masked" if message.get("extraprivacy") else path
        result.update(foundanything=True, success=True, elements={"path": shown, "percent": used})
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        result["errors"] = [f"{type(error).__name__}: {error}"]
    return json.dumps(result).encode() + b"\n"


def serve_client(client, places):
    """One connection: one request, ended by a line feed or the end of the stream; one answer; close."""
    try:
        with client:
            client.settimeout(CLIENT_TIMEOUT_SECS)
            with client.makefile("rb") as stream:
                request = stream.readline(MAX_REQUEST_BYTES)
            if request:
                client.sendall(answer(request))
    except OSError:
        pass  # a slow or vanished client costs its own connection only
    finally:
        places.release()


def listen(listener):
    places = threading.Semaphore(MAX_CLIENTS)
    while True:
        places.acquire()
        client, _ = listener.accept()
        threading.Thread(target=serve_client, args=(client, places), daemon=True).start()


def main():
    # The socket is private from its first moment: umask first, and the agent's directory is private too.
    os.umask(0o177)
    path = os.path.join(os.environ.get("VIGIE_RUN_DIR", "/run/vigie"), f"persist-{NAME}.sock")
    if os.path.exists(path):
        os.unlink(path)  # left by an earlier life: the agent never runs two at once
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    send(
        {
            "class": "register",
            "parameters": {
                "sockpath": f"unix:{path}",
                "protocol": 1,
                "capabilities": ["stop", "alert-ack", "reconfigure"],
            },
        }
    )
    configs, outbox = queue.Queue(), Outbox()
    threading.Thread(target=listen, args=(listener,), daemon=True).start()
    threading.Thread(target=watch, args=(configs, outbox), daemon=True).start()

    # This loop does nothing slow, so that heartbeats are always echoed at once.
    opened = False
    for line in sys.stdin.buffer:
        try:
            message = json.loads(line)
            kind, parameters = message.get("class"), message.get("parameters") or {}
            if kind == "ping":
                send(message)
            elif kind == "config":
                config = read_config(parameters)
                if parameters.get("statedir") and not opened:
                    opened = True
                    outbox.open(parameters["statedir"])
                configs.put(config)
                log("module received configuration")
            elif kind == "ack":
                outbox.acknowledge(parameters["id"])
            elif kind == "stop":
                break
            # any other class is for others: ignore it
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log(f"a line from the agent was dropped: {type(error).__name__}")
    # `stop`, or stdin has ended and the agent is gone. The other threads are daemons and end with us.
    os.unlink(path)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        # The agent is gone; do not let Python complain while it flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
