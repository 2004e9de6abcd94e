"""Persistent modules for Vigie in Python: one file, standard library only, Python 3.9 or newer.

    from vigie_module import Module

    module = Module("hello")

    @module.on_config
    def configure(config):          # the module's section, keys in lower case; raise ValueError to refuse it
        ...

    @module.on_query
    def answer(parameters):         # returns what was found; None or an empty value means nothing
        return {"hello": parameters.get("name", "world")}

    @module.in_background
    def watch(module):              # a thread of its own; begins with the first configuration
        while not module.stopping.wait(60):
            module.alert("low", "a minute has passed")

    module.run()

What it takes care of: heartbeats are echoed at once, alerts are kept on disk until the agent has them and sent again after
a crash with the same ids, the query socket is private and outlives bad clients, a configuration is confirmed or refused.
`vigie module test` shows that it does.
"""

import json
import os
import random
import socket
import sys
import threading

MAX_REQUEST_BYTES = 1024 * 1024
CLIENT_TIMEOUT_SECS = 10
MAX_CLIENTS = 16
NOT_ON_DISK = "alerts-not-on-disk"
SEVERITIES = ("low", "medium", "high", "critical")


class Module:
    """A module; its name is that of its [[module]] block."""

    def __init__(self, name):
        self.name = name
        self.config = {}
        self.tags = {}
        self.hostname = ""
        self._extra_privacy = False
        self._query = threading.local()
        #: Set when the module is to end.
        self.stopping = threading.Event()
        self._configure = None
        self._answer = None
        self._background = []
        self._output = threading.Lock()
        self._outbox = _Outbox(self)
        self._accepts = ()
        self._conditions = {}
        self._conditions_lock = threading.RLock()

    # --- What a module is made of.

    def on_config(self, function):
        """Is given the module's section of every configuration; ValueError refuses it."""
        self._configure = function
        return function

    def on_query(self, function):
        """Is given the parameters of a query, in a thread of its own; ValueError is the asker's mistake."""
        self._answer = function
        return function

    def in_background(self, function):
        """Runs in a thread of its own from the first good configuration on."""
        self._background.append(function)
        return function

    # --- What a module does.

    @property
    def extra_privacy(self):
        """Whether names, paths and addresses stay out of answers: on this host, or in the query of this thread."""
        return self._extra_privacy or getattr(self._query, "extra_privacy", False)

    def log(self, text):
        """A line for the agent's log."""
        self._send({"class": "log", "parameters": {"message": str(text)}})

    def alert(self, severity, text, **details):
        """An alert; it is sent until the agent has it.

        From the first good configuration on it is on disk when this returns; where the disk does not take it, it waits in
        memory and the condition alerts-not-on-disk stands.
        """
        if severity not in SEVERITIES:
            raise ValueError(f"severity is one of {', '.join(SEVERITIES)}, not {severity!r}")
        self._outbox.alert(json.dumps({"severity": severity, "alert": text, **details}))

    def raise_condition(self, name, detail="", failed=False):
        """Something is wrong from now on: lower-case letters, digits and hyphens name it."""
        condition = {"name": name, "severity": "failed" if failed else "warning", "detail": detail}
        with self._conditions_lock:
            if self._conditions.get(name) != condition:
                self._conditions[name] = condition
                self._tell_health()

    def clear_condition(self, name):
        """It is no longer wrong."""
        with self._conditions_lock:
            if self._conditions.pop(name, None):
                self._tell_health()

    def run(self):
        """Speaks with the agent until it says stop or goes away."""
        listener = self._listen() if self._answer else None
        capabilities = ["stop", "alert-ack", "reconfigure", "configured"]
        parameters = {"protocol": 1, "capabilities": capabilities, "sockpath": ""}
        if listener:
            parameters["sockpath"] = "unix:" + listener.getsockname()
        self._send({"class": "register", "parameters": parameters})
        try:
            # This loop does nothing slow, so that heartbeats are always echoed at once.
            for line in sys.stdin.buffer:
                if not self._take(line):
                    break
        except BrokenPipeError:
            # The agent is gone; do not let Python complain while it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        finally:
            self.stopping.set()
            if listener:
                os.unlink(listener.getsockname())

    # --- The agent's messages.

    def _take(self, line):
        try:
            message = json.loads(line)
            kind, parameters = message.get("class"), message.get("parameters") or {}
            if kind == "ping":
                self._send(message)
            elif kind == "config":
                self._configured(parameters)
            elif kind == "ack":
                self._outbox.acknowledge(parameters["id"])
            elif kind == "stop":
                return False
            # Any other class is for others.
        except BrokenPipeError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.log(f"a line from the agent was dropped: {type(error).__name__}")
        return True

    def _configured(self, parameters):
        sections = {str(key).lower(): value for key, value in (parameters.get("config") or {}).items()}
        section = sections.get(self.name.lower(), sections)
        config = {str(key).lower(): value for key, value in section.items()} if isinstance(section, dict) else {}
        self._accepts = parameters.get("accepts") or ()
        errors = []
        try:
            if self._configure:
                self._configure(config)
        except (ValueError, TypeError, KeyError) as error:
            errors = [f"{type(error).__name__}: {error}"]
            self.log(f"the configuration is refused: {errors[0]}")
        if not errors:
            self.config = config
            self.tags = parameters.get("tags") or {}
            self.hostname = parameters.get("hostname", "")
            self._extra_privacy = bool(parameters.get("extraprivacy"))
            self._begin(parameters.get("statedir") or os.environ.get("VIGIE_STATE_DIR"))
        if "configured" in self._accepts and "generation" in parameters:
            told = {"generation": parameters["generation"], "ok": not errors, "errors": errors}
            self._send({"class": "configured", "parameters": told})

    def _begin(self, state_directory):
        """What begins with the first good configuration."""
        background, self._background = self._background, []
        if state_directory:
            self._outbox.open(state_directory)
        for function in background:
            threading.Thread(target=function, args=(self,), daemon=True).start()

    def _tell_health(self):
        if "health" in self._accepts:
            self._send({"class": "health", "parameters": {"conditions": list(self._conditions.values())}})

    def _send(self, message):
        """One message: one line, whole, at once. Several threads may call it."""
        with self._output:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()

    # --- Queries.

    def _listen(self):
        # The socket is private from its first moment.
        os.umask(0o177)
        path = os.path.join(os.environ.get("VIGIE_RUN_DIR", "/run/vigie"), f"persist-{self.name}.sock")
        if os.path.exists(path):
            os.unlink(path)  # left by an earlier life: the agent never runs two at once
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()
        return listener

    def _serve(self, listener):
        places = threading.Semaphore(MAX_CLIENTS)
        while True:
            places.acquire()
            client, _ = listener.accept()
            threading.Thread(target=self._serve_client, args=(client, places), daemon=True).start()

    def _serve_client(self, client, places):
        try:
            with client:
                client.settimeout(CLIENT_TIMEOUT_SECS)
                with client.makefile("rb") as stream:
                    request = stream.readline(MAX_REQUEST_BYTES)
                if request:
                    client.sendall(self._result(request))
        except OSError:
            pass  # a slow or vanished client costs its own connection only
        finally:
            places.release()

    def _result(self, request):
        result = {"foundanything": False, "success": False, "elements": None, "statistics": None, "errors": None}
        try:
            message = json.loads(request)
            if message["class"] != "parameters":
                raise ValueError(f"unexpected class {message['class']!r}")
            self._query.extra_privacy = bool(message.get("extraprivacy"))
            elements = self._answer(message.get("parameters") or {})
            result.update(foundanything=bool(elements), success=True, elements=elements)
            return json.dumps(result).encode() + b"\n"
        except Exception as error:  # whatever a module raises is an answer, never the end of the module
            result.update(foundanything=False, success=False, elements=None, errors=[f"{type(error).__name__}: {error}"])
            return json.dumps(result).encode() + b"\n"


class _Outbox:
    """Alerts that the agent has not acknowledged, on disk before they are sent."""

    def __init__(self, module):
        self.module = module
        self.lock = threading.Lock()
        self.path = None
        # Every life numbers its alerts anew: after a power failure the file may not know which numbers were given, and an
        # alert with an old id would be taken for a repetition.
        self.epoch = f"{random.getrandbits(64):016x}"
        self.next = 1
        self.pending = {}

    def open(self, directory):
        """Takes over what an earlier life left in `directory`, once."""
        with self.lock:
            if self.path:
                return
            path = os.path.join(directory, f"alerts-{self.module.name}.json")
            earlier = {}
            try:
                try:
                    with open(path, encoding="utf-8") as file:
                        earlier = dict(json.load(file))
                except FileNotFoundError:
                    pass
                except (ValueError, TypeError):
                    os.replace(path, path + ".damaged")
                    self.module.log("the file of unacknowledged alerts was damaged and put aside")
            except OSError as error:
                # What is in it must not be replaced; the next configuration tries again.
                self._complain(f"cannot read {path}: {error.strerror}")
                return
            self.path = path
            given = self.pending
            self.pending = {**earlier, **given}
            if given:
                self._save()
            for identity, text in earlier.items():
                self._send(identity, text)

    def alert(self, text):
        with self.lock:
            identity = f"{self.epoch}-{self.next}"
            self.next += 1
            self.pending[identity] = text
            self._save()
            self._send(identity, text)

    def acknowledge(self, identity):
        with self.lock:
            if self.pending.pop(identity, None) is not None:
                self._save()

    def _save(self):
        # A new file in the old one's place: a crash leaves one of the two, never half of one.
        if not self.path:
            return
        try:
            with open(self.path + ".new", "w", encoding="utf-8") as file:
                json.dump(self.pending, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self.path + ".new", self.path)
            # Without it a power failure could undo the change of names.
            directory = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            self._complain(f"cannot write {self.path}: {error.strerror}")
        else:
            self.module.clear_condition(NOT_ON_DISK)

    def _complain(self, text):
        self.module.raise_condition(NOT_ON_DISK, text + "; unacknowledged alerts wait in memory")

    def _send(self, identity, text):
        self.module._send({"class": "alert", "parameters": {"message": text, "id": identity}})
