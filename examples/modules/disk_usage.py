#!/usr/bin/env python3
"""A persistent module on Vigie's Python SDK (vigie_module.py, which lies beside it): alerts when a file system is nearly
full.

Configuration (disk_usage.cfg, or disk_usage.toml in TOML):

    [disk_usage]
    path = /
    path = /var
    limit = 90          ; per cent
    interval = 60       ; seconds

A query {"path": "/srv"} answers how full the file system of /srv is.
"""

import shutil
import threading

from vigie_module import Module

module = Module("disk_usage")
wanted = {}
changed = threading.Event()


def percent_used(path):
    usage = shutil.disk_usage(path)
    return round(100 * usage.used / max(usage.total, 1), 1)


@module.on_config
def configure(section):
    """All values may be text; a key that occurs once is one of them, a repeated one a list."""
    paths = section.get("path", ["/"])
    wanted.update(
        paths=[paths] if isinstance(paths, str) else list(paths),
        limit=float(section.get("limit", 90)),
        interval=max(float(section.get("interval", 60)), 1),
    )
    changed.set()
    module.log("module received configuration")


@module.on_query
def answer(parameters):
    path = parameters.get("path", "/")
    # In extra privacy mode the answer does not say what identifies.
    return {"path": "masked" if module.extra_privacy else path, "percent": percent_used(path)}


@module.in_background
def watch(module):
    """Looks at the file systems now and then; a new configuration takes effect at once."""
    above = set()
    while not module.stopping.is_set():
        if changed.is_set():
            changed.clear()
            above.clear()
        config = dict(wanted)
        for path in config["paths"]:
            try:
                used = percent_used(path)
            except OSError as error:
                module.log(f"cannot look at {path!r}: {error}")
                continue
            if used < config["limit"]:
                above.discard(path)
            elif path not in above:
                above.add(path)
                module.alert("high", f"file system of {path} is {used} % full", path=path, percent=used)
        changed.wait(config["interval"])


module.run()
