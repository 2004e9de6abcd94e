#!/usr/bin/env python3
"""@NAME@: alerts when a file becomes larger than it may.

Configuration (@NAME@.cfg):

    [@NAME@]
    path = /var/log/syslog
    limit = 1000000         ; bytes
    interval = 60           ; seconds
"""

import os

from vigie_module import Module

module = Module("@NAME@")
settings = {"path": "/var/log/syslog", "limit": 1_000_000, "interval": 60.0}


@module.on_config
def configure(config):
    limit, interval = int(config.get("limit", 1_000_000)), float(config.get("interval", 60))
    if limit < 0 or interval <= 0:
        raise ValueError("limit and interval must be positive")
    settings.update(path=config.get("path", settings["path"]), limit=limit, interval=interval)


@module.on_query
def answer(parameters):
    path = parameters.get("path", settings["path"])
    return {"path": "masked" if module.extra_privacy else path, "bytes": os.path.getsize(path)}


@module.in_background
def watch(module):
    above = False
    while True:
        try:
            size = os.path.getsize(settings["path"])
            module.clear_condition("cannot-look")
        except OSError as error:
            module.raise_condition("cannot-look", str(error))
        else:
            if size > settings["limit"] and not above:
                module.alert("medium", f"{settings['path']} has {size} bytes", path=settings["path"], bytes=size)
            above = size > settings["limit"]
        if module.stopping.wait(settings["interval"]):
            return


module.run()
