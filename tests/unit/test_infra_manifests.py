"""Manifests of infra/ fit the schemas of those who read them, and each check is known to fail."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import ray

from gen_dist.train import ray_settings
from tests.support.manifests import INFRA, changed, complaints, compose_spec, custom_resource, document, documents

KUBERNETES = "1.34"
CLUSTERS = {"kuberay/cluster.yaml": "spec", "kuberay/job.yaml": "spec.rayClusterSpec"}
CONTAINER = "workerGroupSpecs.0.template.spec.containers.0"
BREAKS = [
    ("kuberay/cluster.yaml", "spec.workerGroupSpecs.0.replicas", "two"),
    ("kuberay/cluster.yaml", "spec.workerGroupSpecs.0.gpus", 8),
    ("kuberay/cluster.yaml", "spec.authOptions.mode", "on"),
    ("kuberay/cluster.yaml", f"spec.{CONTAINER}.startupProbe.httpGet.port", None),
    ("kuberay/cluster.yaml", f"spec.{CONTAINER}.volumeMounts.0.path", "/dev/shm"),
    ("kuberay/job.yaml", "spec.backoffLimit", "three"),
    ("kuberay/job.yaml", "spec.rayClusterSpec.headGroupSpec.template", None),
    ("kuberay/job.yaml", "spec.backofLimit", 3),
    ("compose/compose.yaml", "services.head.comand", "ray start"),
    ("compose/compose.yaml", "services.mlflow.healthcheck.retries", []),
    ("vm/cluster.yaml", "cluster_name", None),
    ("vm/cluster.yaml", "maximal_workers", 3),
]


@cache
def schema_of(name: str) -> dict[str, Any]:
    if name == "compose/compose.yaml":
        return compose_spec()
    if name == "vm/cluster.yaml":
        return json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    return custom_resource({"RayCluster": "rayclusters", "RayJob": "rayjobs"}[document(name)["kind"]])


@pytest.mark.parametrize("name", [*CLUSTERS, "compose/compose.yaml", "vm/cluster.yaml"])
def test_a_manifest_fits_its_schema(name: str) -> None:
    assert complaints(schema_of(name), document(name)) == []


@pytest.mark.parametrize(("name", "path", "value"), BREAKS)
def test_a_manifest_that_is_broken_on_purpose_does_not(name: str, path: str, value: Any) -> None:
    assert complaints(schema_of(name), changed(document(name), path, value)) != []


@pytest.mark.parametrize("found", documents("kuberay/namespace.yaml"), ids=lambda found: found["kind"])
def test_what_the_cluster_stands_on_fits_kubernetes(found: dict[str, Any]) -> None:
    kubernetes_validate.validate(found, KUBERNETES, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**found, "spek": {}}, KUBERNETES, strict=True)


def groups(name: str) -> list[dict[str, Any]]:
    spec: Any = document(name)
    for key in CLUSTERS[name].split("."):
        spec = spec[key]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("name", CLUSTERS)
def test_pods_fit_kubernetes_and_what_the_namespace_admits(name: str) -> None:
    """The rules of Kubernetes' profile 'restricted', which the namespace enforces."""
    for group in groups(name):
        template = group["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in template["spec"]["containers"]:
            security = container["securityContext"]
            assert security == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert container["resources"]["limits"].keys() == container["resources"]["requests"].keys() >= {"memory"}
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()


@pytest.mark.parametrize("name", CLUSTERS)
def test_shared_memory_is_a_part_of_the_memory_of_a_pod_and_holds_buffers(name: str) -> None:
    for group in groups(name):
        spec = group["template"]["spec"]
        (shared,) = [volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "shared-memory"]
        assert {"name": "shared-memory", "mountPath": "/dev/shm"} in spec["containers"][0]["volumeMounts"]
        limit = spec["containers"][0]["resources"]["limits"]["memory"]
        assert shared["medium"] == "Memory"
        assert 1 < int(shared["sizeLimit"].removesuffix("Gi")) < int(limit.removesuffix("Gi"))


@pytest.mark.parametrize("name", CLUSTERS)
def test_credentials_are_references_and_the_token_is_on(name: str) -> None:
    spec: Any = document(name)
    for key in CLUSTERS[name].split("."):
        spec = spec[key]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == ray.__version__
    for group in groups(name):
        (container,) = group["template"]["spec"]["containers"]
        assert {source["secretRef"]["name"] for source in container["envFrom"]} == {"gen-dist-store", "gen-dist-mlflow"}
        assert not [one for one in container.get("env", []) if "SECRET" in one["name"] or "PASSWORD" in one["name"]]


def test_one_run_starts_with_all_its_pods_or_waits() -> None:
    job = document("kuberay/job.yaml")
    queues = {found["kind"]: found["metadata"]["name"] for found in documents("kuberay/queue.yaml")}
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queues["LocalQueue"]
    assert job["spec"]["suspend"] is True
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    gpus = group["replicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert f"--set cluster.num_workers={gpus} " in job["spec"]["entrypoint"]


HEADS = [
    "kuberay/cluster.yaml",
    "kuberay/job.yaml",
    "compose/compose.yaml",
    "vm/cluster.yaml",
    "slurm/node",
    "local/parts/cluster.sh",
]


@pytest.mark.parametrize("name", HEADS)
def test_every_head_notices_a_lost_machine_as_soon_as_a_run_counts_on_it(name: str) -> None:
    text = (INFRA / name).read_text()
    for key, value in ray_settings.NODES.items():
        said = (f"{key}={value}", f'{key}: "{value}"', f'name: {key}, value: "{value}"')
        assert any(form in text for form in said), f"{name}: {key} is not {value}"


@pytest.mark.parametrize("name", [name for name in HEADS if not name.startswith("slurm")])
def test_every_head_gives_a_stopped_job_time_for_its_checkpoint(name: str) -> None:
    text = (INFRA / name).read_text()
    assert "RAY_JOB_STOP_SIGNAL" in text
    assert "RAY_JOB_STOP_WAIT_TIME_S" in text
