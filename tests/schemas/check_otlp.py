"""Reads requests of OTLP with the official classes: check_otlp.py binary|text DIRECTORY HARD-PATH"""

import json
import pathlib
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest


def main():
    form, directory, path = sys.argv[1:]
    records = []
    for file in sorted(pathlib.Path(directory).iterdir()):
        body = file.read_bytes()
        request = ExportLogsServiceRequest()
        if form == "binary":
            request.ParseFromString(body)
            assert request.SerializeToString(deterministic=True), "it is empty"
        else:
            # It refuses names that it does not know; that numbers of 64 bits are texts is asserted apart.
            json_format.Parse(body, request)
            for resource in json.loads(body)["resourceLogs"]:
                for scope in resource["scopeLogs"]:
                    for record in scope["logRecords"]:
                        assert isinstance(record["timeUnixNano"], str)
                        assert isinstance(record["severityNumber"], int)
        for resource in request.resource_logs:
            names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            assert names["service.name"] == "vigie" and names["os.type"] == "linux", names
            for scope in resource.scope_logs:
                assert scope.scope.name == "vigie.says", scope.scope.name
                records.extend(scope.log_records)
    first = records[0]
    attributes = {pair.key: pair.value for pair in first.attributes}
    assert len(records) == 3, len(records)
    assert first.severity_number == 18 and first.severity_text == "critical"
    assert first.event_name == "vigie.file.changed", first.event_name
    assert first.body.string_value == path + " changed"
    assert attributes["file.path"].string_value == path
    assert attributes["vigie.alert.seq"].int_value == 1
    assert attributes["process.pid"].int_value == 812
    assert first.time_unix_nano == 1795885199500000000, first.time_unix_nano


main()
