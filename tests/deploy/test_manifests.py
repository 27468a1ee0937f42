"""Every overlay renders, and every object in it is one that Kubernetes accepts and that follows our rules."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

Manifest = dict[str, Any]
Render = Callable[[str], list[Manifest]]

FOLDERS = [
    *(f"k8s/overlays/{name}" for name in ("single-gpu", "tp8", "multi-node", "router", "cpu-demo")),
    *("k8s/base", "k8s/loadtest", "monitoring"),
]
KUBERNETES = ("1.29", "1.33")
CRDS = Path(__file__).parent / "crds"
CUSTOM = {path.stem: json.loads(path.read_text()) for path in CRDS.glob("*.json")}
MAY_HAVE_A_TOKEN = {"sgl-indexcache-router"}


def pods(objects: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod template, with the name of what makes the pods."""
    for one in objects:
        name, spec = f"{one['kind']}/{one['metadata']['name']}", one.get("spec", {})
        if one["kind"] == "LeaderWorkerSet":
            for part in ("leaderTemplate", "workerTemplate"):
                yield f"{name}/{part}", spec["leaderWorkerTemplate"][part]
        elif "template" in spec:
            yield name, spec["template"]


def accept(one: Manifest, version: str) -> None:
    """Raise when Kubernetes would refuse the object, unknown fields included."""
    if one["kind"] in CUSTOM:
        jsonschema.validate(one, CUSTOM[one["kind"]])
        for name, template in pods([one]):
            metadata = {**template["metadata"], "name": name.rpartition("/")[2].lower()}
            accept({"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata}, version)
    else:
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_is_accepted(render: Render, folder: str) -> None:
    for one in render(folder):
        for version in KUBERNETES:
            accept(one, version)


def test_the_schemas_refuse(render: Render) -> None:
    """Misspelt fields, in our own schemas and in Kubernetes' alike."""
    objects = {one["kind"]: one for one in render("k8s/overlays/multi-node") + render("k8s/overlays/tp8")}
    for kind, path in {
        "LeaderWorkerSet": ("spec", "leaderWorkerTemplate", "workerTemplate", "spec", "containers", 0),
        "PodMonitor": ("spec",),
        "PrometheusRule": ("spec", "groups", 0, "rules", 0),
        "Deployment": ("spec", "template", "spec"),
        "NetworkPolicy": ("spec",),
    }.items():
        broken = place = copy.deepcopy(objects[kind])
        for step in path:
            place = place[step]
        place["misspelt"] = 1
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            accept(broken, KUBERNETES[-1])


def violations(name: str, template: Manifest) -> list[str]:
    """What a pod does that none of ours may."""
    spec = template["spec"]
    found = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if spec.get(key)]
    found += [f"volume {v['name']} is a host path" for v in spec.get("volumes", ()) if "hostPath" in v]
    if spec.get("automountServiceAccountToken") is not False and spec["serviceAccountName"] not in MAY_HAVE_A_TOKEN:
        found.append("mounts a service-account token")
    if spec.get("enableServiceLinks") is not False:
        found.append("gets the environment variables of Services")
    security = spec.get("securityContext", {})
    if not (security.get("runAsNonRoot") and security.get("runAsUser", 0) > 0):
        found.append("may run as root")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("has no seccomp profile")
    for container in spec["containers"] + spec.get("initContainers", []):
        found += [f"{container['name']}: {what}" for what in _container(container, name)]
    return found


def _container(container: Manifest, name: str) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("privileged") or security.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if not security.get("readOnlyRootFilesystem"):
        yield "writes to its root"
    if security.get("capabilities", {}) != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    image, _, tag = container["image"].rpartition(":")
    if not image or tag == "latest":
        yield "image is not pinned"
    limits, requests = (container.get("resources", {}).get(kind, {}) for kind in ("limits", "requests"))
    if missing := {"cpu", "memory", "ephemeral-storage"} - (limits.keys() & requests.keys()):
        yield f"no limit or request: {', '.join(sorted(missing))}"
    if not name.startswith("Job/") and not {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys():
        yield "has not all three probes"
    if not name.startswith("Job/") and "preStop" not in container.get("lifecycle", {}):
        yield "has no preStop"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_pod_breaks_a_rule(render: Render, folder: str) -> None:
    found = {name: violations(name, template) for name, template in pods(render(folder))}
    if folder.endswith("base"):  # images get their tags in the overlays
        found = {name: [what for what in list_ if "not pinned" not in what] for name, list_ in found.items()}
    assert {name: list_ for name, list_ in found.items() if list_} == {}


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("spec", "hostNetwork"), True, "hostNetwork"),
        (("spec", "volumes", 0), {"name": "x", "hostPath": {"path": "/"}}, "host path"),
        (("spec", "automountServiceAccountToken"), True, "token"),
        (("spec", "securityContext", "runAsUser"), 0, "root"),
        (("spec", "securityContext", "seccompProfile"), {"type": "Unconfined"}, "seccomp"),
        (("spec", "containers", 0, "securityContext", "privileged"), True, "privileges"),
        (("spec", "containers", 0, "securityContext", "readOnlyRootFilesystem"), False, "root"),
        (("spec", "containers", 0, "securityContext", "capabilities"), {"drop": ["ALL"], "add": ["X"]}, "capab"),
        (("spec", "containers", 0, "image"), "a/b:latest", "pinned"),
        (("spec", "containers", 0, "image"), "b", "pinned"),
        (("spec", "containers", 0, "resources", "limits"), {}, "limit"),
        (("spec", "containers", 0, "livenessProbe"), None, "probes"),
    ],
)
def test_the_rules_fire(render: Render, path: tuple[Any, ...], value: object, word: str) -> None:
    name, template = next(pods(render("k8s/overlays/tp8")))
    place = template = copy.deepcopy(template)
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    found = violations(name, template)
    assert len(found) == 1
    assert word in found[0]


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if "overlays" in folder])
def test_what_belongs_together(render: Render, folder: str) -> None:
    """Names and labels meet: a Service has pods, a volume a claim, a policy its default."""
    objects = render(folder)
    named = {(one["kind"], one["metadata"]["name"]) for one in objects}
    labels = [template["metadata"]["labels"] for _, template in pods(objects)]
    assert all(one["metadata"].get("namespace") == "sgl-indexcache" for one in objects if one["kind"] not in UNSPACED)

    def selects(selector: Manifest) -> bool:
        return any(selector.items() <= found.items() for found in labels)

    for one in objects:
        match one["kind"]:
            case "Service":
                assert selects(one["spec"]["selector"])
            case "PodDisruptionBudget" | "PodMonitor":
                assert selects(one["spec"]["selector"]["matchLabels"])
            case "NetworkPolicy":
                assert selects(one["spec"]["podSelector"].get("matchLabels", {}))
            case "LeaderWorkerSet":  # its controller makes a Service of this name
                assert ("Service", one["metadata"]["name"]) not in named
    for _, template in pods(objects):
        spec = template["spec"]
        assert ("ServiceAccount", spec["serviceAccountName"]) in named
        assert ("PriorityClass", spec["priorityClassName"]) in named
        mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
        for volume in spec["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in named
            if config := volume.get("configMap"):
                assert ("ConfigMap", config["name"]) in named
    deny = next(one for one in objects if one["metadata"]["name"] == "default-deny")
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


UNSPACED = {"Namespace", "PriorityClass"}


def test_drains_within_the_grace_period(render: Render) -> None:
    """preStop and the longest wait in it come off terminationGracePeriodSeconds."""
    for _, template in pods(render("k8s/overlays/multi-node")):
        command = template["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        seconds = int(command[-1].split()[-1])
        assert seconds < template["spec"]["terminationGracePeriodSeconds"]


def test_the_one_role_reads_pods(render: Render) -> None:
    roles = [one for folder in FOLDERS for one in render(folder) if one["kind"] in ("Role", "ClusterRole")]
    assert [role["rules"] for role in roles] == [
        [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    ]


def test_settings_in_config_maps_are_settings(render: Render, tmp_path: Path) -> None:
    from sgl_indexcache.settings import load

    found = 0
    for folder in FOLDERS:
        for one in render(folder):
            for name, text in one.get("data", {}).items() if one["kind"] == "ConfigMap" else ():
                if name == "indexcache.yaml":
                    (tmp_path / name).write_text(text)
                    assert load(tmp_path / name, {}).enabled
                    found += 1
    assert found >= 5


def test_own_images_have_no_registry_of_ours(render: Render) -> None:
    images = {
        container["image"]
        for folder in FOLDERS
        for _, template in pods(render(folder))
        for container in template["spec"]["containers"]
    }
    assert images
    assert all(image.startswith("registry.invalid/sgl-indexcache") or "/" not in image for image in images)
