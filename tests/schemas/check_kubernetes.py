"""Checks deploy/kubernetes/vigie.yaml: its schema, and that it gives the agent what the unit gives it, and no more."""

import pathlib
import re
import sys

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20
SIZES = {"Mi": MIB, "Gi": MIB << 10, "M": MIB, "G": MIB << 10}


def size(text):
    number, unit = re.fullmatch(r"(\d+)([A-Za-z]+)", text).groups()
    return int(number) * SIZES[unit]


def unit_values(key):
    """All values of a key in the unit; systemd's sizes have powers of 1024."""
    unit = (ROOT / "conf/systemd/vigie.service").read_text()
    return [line.split("=", 1)[1] for line in unit.splitlines() if line.startswith(key + "=")]


def main():
    text = (ROOT / "deploy/kubernetes/vigie.yaml").read_text()
    documents = list(yaml.safe_load_all(text))
    for version in ["1.30", "1.33", "1.37"]:
        for document in documents:
            kubernetes_validate.validate(document, version, strict=True)
    by_kind = {document["kind"]: document for document in documents}
    assert sorted(by_kind) == ["ConfigMap", "DaemonSet", "Namespace", "ServiceAccount"], sorted(by_kind)
    assert by_kind["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    for kind, document in by_kind.items():
        assert kind == "Namespace" or document["metadata"]["namespace"] == "vigie", kind

    files = by_kind["ConfigMap"]["data"]
    for name, content in files.items():
        assert content == (ROOT / "deploy/container" / name).read_text(), f"{name} is not that of deploy/container"

    daemons = by_kind["DaemonSet"]["spec"]
    pod = daemons["template"]["spec"]
    assert daemons["selector"]["matchLabels"].items() <= daemons["template"]["metadata"]["labels"].items()
    assert pod["hostPID"] and pod["hostNetwork"] and pod["automountServiceAccountToken"] is False
    assert {"operator": "Exists"} in pod["tolerations"]
    (agent,) = pod["containers"]

    rights = agent["securityContext"]
    added = {"CAP_" + name for name in rights["capabilities"]["add"]}
    assert added == set(unit_values("CapabilityBoundingSet")[0].split()), added
    assert rights["capabilities"]["drop"] == ["ALL"] and not rights["privileged"] and rights["readOnlyRootFilesystem"]
    assert rights["runAsUser"] == 0 and rights["appArmorProfile"]["type"] == "Unconfined"
    assert size(agent["resources"]["limits"]["memory"]) == size(unit_values("MemoryMax")[0])
    stop = int(unit_values("TimeoutStopSec")[0].rstrip("s"))
    assert pod["terminationGracePeriodSeconds"] >= stop, stop

    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in agent["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes), "a volume without a mount, or the other way round"
    paths = {path: volumes[mount["name"]].get("hostPath", {}).get("path") for path, mount in mounts.items()}
    assert paths == {
        "/host": "/", "/etc/machine-id": "/etc/machine-id", "/var/lib/vigie": "/var/lib/vigie", "/etc/vigie": None, "/run": None,
    }, paths
    assert mounts["/host"]["readOnly"] and mounts["/host"]["mountPropagation"] == "HostToContainer"
    assert {path for path, mount in mounts.items() if not mount.get("readOnly")} == {"/var/lib/vigie", "/run"}
    mapped = {item["key"]: item["path"] for item in volumes["configuration"]["configMap"]["items"]}
    assert mapped == {"vigie.toml": "vigie.toml", "fswatch.cfg": "modules.d/fswatch.cfg"} and set(mapped) == set(files)

    # The same rights and mounts as in the command of the documentation.
    command = re.search(r"docker run .*?\n```", (ROOT / "docs/containers.md").read_text(), re.DOTALL).group(0)
    assert {"CAP_" + name for name in re.findall(r"--cap-add (\S+)", command)} == added, command
    for path, source in paths.items():
        assert source is None or re.search(rf"-v {re.escape(source)}:{path}(:ro\S*)?\s", command), path
    assert ":/host:ro,rslave" in command and "--pid host" in command and "--network host" in command


if __name__ == "__main__":
    sys.exit(main())
