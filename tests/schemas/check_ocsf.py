"""Checks events, one a line, against the closed JSON Schemas that ocsf-json-schema makes for OCSF 1.8.0.

Usage: check_ocsf.py FILE
"""

import json
import sys

from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

VERSION = "1.8.0"
CLASSES = {1001: "file_activity", 2004: "detection_finding"}


def main():
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=VERSION))
    validators = {}
    checked = bad = 0
    with open(sys.argv[1], encoding="utf-8") as lines:
        for line in lines:
            event = json.loads(line)
            key = (event["class_uid"], tuple(event["metadata"]["profiles"]))
            if key not in validators:
                made = schema.get_class_schema(CLASSES[key[0]], list(key[1]))
                validators[key] = Draft202012Validator(made)
            errors = validators[key].iter_errors(event)
            complaints = [f"{'/'.join(map(str, one.absolute_path))}: {one.message[:200]}" for one in errors]
            # No schema says this.
            if event["type_uid"] != event["class_uid"] * 100 + event["activity_id"]:
                complaints.append("type_uid is not made of class_uid and activity_id")
            if event["metadata"]["version"] != VERSION:
                complaints.append("another version")
            checked += 1
            if complaints:
                bad += 1
                if bad <= 10:
                    print("; ".join(complaints[:5]))
    print(f"{checked} events checked with OCSF {VERSION}, {bad} bad")
    return 1 if bad or checked < 200 else 0


sys.exit(main())
