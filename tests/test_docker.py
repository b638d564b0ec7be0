"""What surrounds the service in production: Dockerfile, compose, Prometheus, Grafana and Kubernetes files. Nothing is built.

`scripts/container-check` builds the image and runs it. Checks by hadolint, check-jsonschema, kubernetes-validate and promtool
run where these are installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client.metrics
import pytest
import yaml

from laconic.codecs import weights
from laconic.service.metrics import Metrics
from laconic.service.settings import ServiceSettings

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
STORES = yaml.safe_load((DOCKER / "compose.stores.yaml").read_text())
DASHBOARD = json.loads((DOCKER / "grafana" / "laconic.json").read_text())
ALERTS = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())
RAY = ("ray-service", "ray-bulk")  # of the KubeRay operator; tests/test_ray_engine.py has more of the first
MANIFESTS = [path for path in (DOCKER / "kubernetes").glob("*.yaml") if path.stem not in RAY]
KUBERNETES = {path.stem: yaml.safe_load(path.read_text()) for path in MANIFESTS}
POD = KUBERNETES["deployment"]["spec"]["template"]["spec"]
UID = 10001


def program(name: str) -> str:
    """The path of an optional program, beside this interpreter or on PATH; skips the test where there is none."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"there is no {name}")
    return found


def passes(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def stages() -> list[list[str]]:
    """The Dockerfile's instructions by stage, continuation lines joined."""
    joined = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [part.splitlines() for part in re.split(r"^(?=FROM )", joined, flags=re.MULTILINE)[1:]]


def instruction(name: str) -> str:
    """What follows an instruction of the final stage that occurs once."""
    (found,) = [line.removeprefix(name).strip() for line in stages()[-1] if line.startswith(f"{name} ")]
    return found


class TestDockerfile:
    def test_hadolint(self) -> None:
        passes(program("hadolint"), "Dockerfile")

    def test_what_it_copies_is_sent_to_the_build(self) -> None:
        admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        copies = [line.split()[1:-1] for stage in stages() for line in stage if re.match(r"COPY (?!--from)", line)]
        sources = {source for copy in copies for source in copy}
        assert sources == admitted
        assert all((ROOT / source).exists() for source in sources)
        packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
        assert set(packages.values()) <= sources

    def test_settings_of_pip_stay_in_the_first_stage(self) -> None:
        first, *others = ["\n".join(stage) for stage in stages()]
        names = set(re.findall(r"^ARG (PIP_\w+)$", first, re.MULTILINE))  # none has a default
        assert {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT"} <= names
        assert not any("PIP_" in stage or "TORCH_INDEX" in stage for stage in others)

    def test_the_image_runs_as_a_user_without_rights(self) -> None:
        assert instruction("USER") == f"{UID}:{UID}"
        assert f"useradd --uid {UID}" in "\n".join(stages()[-2])
        assert not any(line.startswith("RUN ") for line in stages()[-1]), "what a build mounts must not leave its places behind"
        assert instruction("STOPSIGNAL") == "SIGTERM"
        assert not any(re.search(r"\bcurl\b|\bwget\b", line) for line in stages()[-1])

    def test_the_version_is_the_project_s(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert f"ARG VERSION={project['version']}" in stages()[-1]

    def test_torch_is_pinned_where_the_variants_change_it(self) -> None:
        """The Dockerfile edits this line: torch==N becomes torch==N+cpu, or torch===N."""
        assert len(re.findall(r"^torch==[0-9.]+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)) == 1


class TestStart:
    """docker/start, the image's entry point."""

    @pytest.fixture
    def venv(self, tmp_path: Path) -> Path:
        """A folder like the image's /opt/laconic, with compiled kernels."""
        (tmp_path / "venv" / "bin").mkdir(parents=True)
        (tmp_path / "venv" / "kernels" / "codecs_1").mkdir(parents=True)
        (tmp_path / "venv" / "kernels" / "codecs_1" / "one.nbc").write_bytes(b"code")
        shutil.copy(DOCKER / "start", tmp_path / "venv" / "bin")
        return tmp_path / "venv"

    def start(self, venv: Path, cache: Path, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "NUMBA_CACHE_DIR": str(cache)}
        return subprocess.run([venv / "bin" / "start", *command], env=environment, capture_output=True, text=True, check=False)

    def test_kernels_are_put_where_numba_may_write(self, venv: Path, tmp_path: Path) -> None:
        done = self.start(
            venv, tmp_path / "cache", "sh", "-c", 'echo "$NUMBA_CPU_NAME,${NUMBA_CPU_FEATURES-unset},$1"; exit 7', "sh", "a b"
        )
        assert (done.returncode, done.stderr) == (7, "")
        assert (tmp_path / "cache" / "codecs_1" / "one.nbc").read_bytes() == b"code"
        modern = {"avx2", "bmi2", "fma"} <= set(Path("/proc/cpuinfo").read_text().split())
        assert done.stdout == ("x86-64-v3,,a b\n" if modern else ",unset,a b\n")

    def test_what_is_there_stays(self, venv: Path, tmp_path: Path) -> None:
        (tmp_path / "cache").mkdir()
        assert self.start(venv, tmp_path / "cache", "true").returncode == 0
        assert list((tmp_path / "cache").iterdir()) == []

    def test_it_starts_without_kernels_too(self, venv: Path, tmp_path: Path) -> None:
        done = self.start(venv, tmp_path / "missing" / "cache", "echo", "started")
        assert (done.returncode, done.stdout) == (0, "started\n")
        assert "the start takes longer" in done.stderr


class TestPrepare:
    """docker/prepare.py, which checks weights and compiles kernels while the image is built."""

    @pytest.fixture
    def prepare(self) -> Any:
        spec = importlib.util.spec_from_file_location("prepare", DOCKER / "prepare.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def test_the_shipped_weights_are_the_pinned_ones(self, prepare: Any, capsys: pytest.CaptureFixture[str]) -> None:
        prepare.check_weights()
        files = {path.name for path in (ROOT / "weights").glob("*.safetensors")}
        assert {line.split(":")[0] for line in capsys.readouterr().out.splitlines()} == files

    @pytest.fixture
    def installed(self, prepare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """A copy of the folder of weights, in its place."""
        folder = shutil.copytree(ROOT / "weights", tmp_path / "weights")
        monkeypatch.setattr(weights, "files", lambda package: folder)
        monkeypatch.setattr(prepare, "files", lambda package: folder)
        cached = (weights.load_weights, weights.pinned_weights)
        for function in cached:
            function.cache_clear()
        yield folder
        for function in cached:
            function.cache_clear()

    def test_changed_weights_end_the_build(self, prepare: Any, installed: Path) -> None:
        path = installed / "image-circuit-photos-1.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        with pytest.raises(weights.WeightsMismatch, match=path.name):
            prepare.check_weights()

    def test_so_do_weights_that_nothing_pins(self, prepare: Any, installed: Path) -> None:
        (installed / "stray.safetensors").write_bytes(b"")
        with pytest.raises(SystemExit, match="stray"):
            prepare.check_weights()


class TestCompose:
    def test_schema(self) -> None:
        passes(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", *sorted(DOCKER.glob("compose*.yaml")))

    @pytest.mark.parametrize("name", COMPOSE["services"])
    def test_services_are_hardened(self, name: str) -> None:
        service = COMPOSE["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert service["mem_limit"] and service["pids_limit"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert not re.search(r":latest$|^[^:]+$", service["image"]), "which version runs must not depend on the day"
        for option in service.get("tmpfs", ()):
            assert "size=" in option and "nosuid" in option

    @pytest.mark.parametrize("name", COMPOSE["services"])
    def test_what_is_mounted_exists(self, name: str) -> None:
        for volume in COMPOSE["services"][name].get("volumes", ()):
            source = volume.split(":")[0]
            assert (DOCKER / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]

    def test_it_agrees_with_the_image(self) -> None:
        service = COMPOSE["services"]["laconic"]
        command = json.loads(instruction("HEALTHCHECK").split("CMD", 1)[1])
        assert service["healthcheck"]["test"] == ["CMD", *command]
        assert f"--{'port'} {service['ports'][0].split(':')[-1]}" in " ".join(json.loads(instruction("CMD")))
        assert json.loads(instruction("VOLUME")) == [service["environment"]["LACONIC_STATE_DIR"]]
        assert f"state:{service['environment']['LACONIC_STATE_DIR']}" in service["volumes"]
        assert any(option.startswith("/tmp:") for option in service["tmpfs"])

    @pytest.mark.parametrize("name", sorted(STORES["services"].keys() - {"laconic"}))
    def test_stores_are_hardened_and_nobodys_but_the_services(self, name: str) -> None:
        store = STORES["services"][name]
        assert store["read_only"] is True and store["cap_drop"] == ["ALL"] and "ports" not in store
        assert store["mem_limit"] and store["pids_limit"] and not re.search(r":latest$|^[^:]+$", store["image"])
        assert {volume.split(":")[0] for volume in store["volumes"]} <= STORES["volumes"].keys()
        secrets = [value for key, value in store["environment"].items() if "PASSWORD" in key]
        assert secrets and all(value.startswith("${LACONIC_") and ":?" in value for value in secrets), "there is a default"

    @pytest.mark.parametrize("file", ["compose.yaml", "compose.cuda.yaml", "compose.keys.yaml", "compose.stores.yaml"])
    def test_the_service_takes_the_settings(self, file: str) -> None:
        settings = yaml.safe_load((DOCKER / file).read_text())["services"]["laconic"]["environment"]
        assert all(isinstance(value, str) for value in settings.values())
        ServiceSettings.from_environment(settings)

    def test_requests_may_finish(self) -> None:
        drain = ServiceSettings.model_fields["drain_seconds"].default
        assert int(COMPOSE["services"]["laconic"]["stop_grace_period"].removesuffix("s")) > drain
        assert POD["terminationGracePeriodSeconds"] > drain + int(
            POD["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1]
        )

    def test_with_keys_the_service_is_not_open(self) -> None:
        services = yaml.safe_load((DOCKER / "compose.keys.yaml").read_text())["services"]
        assert services["laconic"]["environment"]["LACONIC_INSECURE"] == "false"
        (folder,) = [volume.split(":")[-2] for volume in services["laconic"]["volumes"]]
        assert str(Path(services["laconic"]["environment"]["LACONIC_KEYS_FILE"]).parent) == folder
        # Compose merges volumes by the path in the container, so that this one replaces the file without a key.
        (mounted,) = [volume.split(":")[-2] for volume in services["prometheus"]["volumes"]]
        assert mounted in [volume.split(":")[1] for volume in COMPOSE["services"]["prometheus"]["volumes"]]
        scrape = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
        assert scrape["authorization"]["credentials_file"] == mounted


def expressions() -> list[tuple[str, str]]:
    """Every query of the dashboard and of the alerts, with its place."""
    found = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
    found += [(rule["alert"], rule["expr"]) for group in ALERTS["groups"] for rule in group["rules"]]
    return found


def labels_by_series() -> dict[str, set[str]]:
    """The labels of every series that a scrape of the service returns."""
    series: dict[str, set[str]] = {"up": set()}
    metrics = Metrics()
    named = {
        metric._name: set(metric._labelnames)  # its only other way out are samples, which a metric without values lacks
        for metric in vars(metrics).values()
        if isinstance(metric, prometheus_client.metrics.MetricWrapperBase)
    }
    for family in metrics.registry.collect():
        labels = named.get(family.name, set())
        if family.type == "histogram":
            series |= {f"{family.name}_bucket": labels | {"le"}, f"{family.name}_sum": labels, f"{family.name}_count": labels}
        else:
            series[family.name + ("_total" if family.type == "counter" else "")] = labels
    return {name: labels | {"job", "instance"} for name, labels in series.items()}


class TestMonitoring:
    @pytest.mark.parametrize(
        ("place", "query"), expressions(), ids=[f"{number} {place}" for number, (place, _) in enumerate(expressions())]
    )
    def test_queries_name_what_the_service_counts(self, place: str, query: str) -> None:
        series = labels_by_series()
        selectors = re.findall(r"([a-zA-Z_:]+)\{([^}]*)\}", query)
        assert selectors
        for name, matchers in selectors:
            assert name in series, f"{place} asks for {name}, which nothing counts"
            assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", matchers)) <= series[name]
            assert 'job="laconic"' in matchers
        known = set.union(*(series[name] for name, _ in selectors))
        for listed in re.findall(r"\bby \(([^)]*)\)", query):
            assert set(listed.replace(" ", "").split(",")) <= known

    def test_rules(self) -> None:
        promtool = program("promtool")
        passes(promtool, "check", "rules", DOCKER / "prometheus" / "alerts.yml")
        passes(promtool, "test", "rules", DOCKER / "prometheus" / "alerts_test.yml")

    def test_alerts_say_what_to_do(self) -> None:
        rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
        assert len({rule["alert"] for rule in rules}) == len(rules) >= 6
        for rule in rules:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"].keys() == {"summary", "description"}
        tested = (DOCKER / "prometheus" / "alerts_test.yml").read_text()
        assert all(f'alertname="{rule["alert"]}"' in tested for rule in rules)

    def test_alerts_follow_the_defaults(self) -> None:
        expression = {rule["alert"]: rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]}
        assert expression["LaconicQueueFull"].endswith(f"* {ServiceSettings.model_fields['queue_size'].default}")
        gigabytes = COMPOSE["services"]["laconic"]["mem_limit"].removesuffix("g")
        assert f"* {gigabytes} * 1024 ^ 3" in expression["LaconicMemory"]
        assert POD["containers"][0]["resources"]["limits"]["memory"] == f"{gigabytes}Gi"

    def test_the_dashboard_shows_what_matters(self) -> None:
        asked = " ".join(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
        names = "http_requests_total http_request_duration_seconds_bucket queue_depth queue_rejected_total"
        names += " span_duration_seconds_sum bytes_in_total bytes_out_total compression_ratio_sum process_resident_memory_bytes"
        assert [name for name in names.split() if name not in asked] == []

    def test_panels_fit_on_the_grid(self) -> None:
        taken: set[tuple[int, int]] = set()
        for panel in DASHBOARD["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            cells = {
                (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, f"{panel['title']} lies over another panel"
            taken |= cells
            assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
        assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])

    def test_the_dashboard_is_provisioned(self) -> None:
        source = yaml.safe_load((DOCKER / "grafana" / "datasource.yaml").read_text())["datasources"][0]
        assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}
        assert source["url"].removeprefix("http://").split(":")[0] in COMPOSE["services"]
        (provider,) = yaml.safe_load((DOCKER / "grafana" / "dashboards.yaml").read_text())["providers"]
        grafana = COMPOSE["services"]["grafana"]
        shown = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        assert str(Path(shown).parent) == provider["options"]["path"]
        assert f"./grafana/laconic.json:{shown}:ro" in grafana["volumes"]

    def test_prometheus_asks_the_service(self) -> None:
        (scrape,) = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
        assert scrape["static_configs"] == [{"targets": ["laconic:8000"]}] and scrape["job_name"] == "laconic"


class TestKubernetes:
    def test_schema(self) -> None:
        files = [DOCKER / "kubernetes" / f"{name}.yaml" for name in KUBERNETES if name != "kustomization"]
        passes(program("kubernetes-validate"), "--strict", *files)

    def test_the_kustomization_lists_the_manifests(self) -> None:
        listed = KUBERNETES["kustomization"]["resources"]
        assert sorted(listed) == sorted(f"{name}.yaml" for name in KUBERNETES if name != "kustomization")
        assert {image["name"] for image in KUBERNETES["kustomization"]["images"]} == {POD["containers"][0]["image"]}

    def test_probes_ask_what_they_should(self) -> None:
        (container,) = POD["containers"]
        probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
        assert {name: probe["path"] for name, probe in probes.items()} == {
            "startup": "/readyz", "readiness": "/readyz", "liveness": "/livez",
        }  # fmt: skip
        assert {probe["port"] for probe in probes.values()} == {container["ports"][0]["name"]}
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 120  # a cold start on a busy machine

    def test_pods_have_no_rights(self) -> None:
        (container,) = POD["containers"]
        assert POD["securityContext"]["runAsNonRoot"] and POD["securityContext"]["runAsUser"] == UID
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert POD["automountServiceAccountToken"] is False
        assert POD["enableServiceLinks"] is False, "a service called laconic would set LACONIC_PORT, and end the start"

    def test_settings_lead_to_what_is_mounted(self) -> None:
        (container,) = POD["containers"]
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        settings = {entry["name"]: entry["value"] for entry in container["env"]}
        assert str(Path(settings["LACONIC_KEYS_FILE"]).parent) in mounts
        assert settings["LACONIC_STATE_DIR"] in mounts and "/tmp" in mounts
        assert "LACONIC_INSECURE" not in settings
        ServiceSettings.from_environment(settings)
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}

    def test_selectors_agree(self) -> None:
        labels = KUBERNETES["deployment"]["spec"]["template"]["metadata"]["labels"]
        assert KUBERNETES["deployment"]["spec"]["selector"]["matchLabels"] == labels
        assert KUBERNETES["service"]["spec"]["selector"] == labels
        assert KUBERNETES["disruption-budget"]["spec"]["selector"]["matchLabels"] == labels
        assert KUBERNETES["autoscaler"]["spec"]["scaleTargetRef"]["name"] == KUBERNETES["deployment"]["metadata"]["name"]
        assert KUBERNETES["disruption-budget"]["spec"]["minAvailable"] < KUBERNETES["autoscaler"]["spec"]["minReplicas"]


class TestRayJob:
    """The RayJob that runs `laconic bulk`."""

    JOB = yaml.safe_load((DOCKER / "kubernetes" / "ray-bulk.yaml").read_text())
    CLUSTER = JOB["spec"]["rayClusterSpec"]
    SERVICE = yaml.safe_load((DOCKER / "kubernetes" / "ray-service.yaml").read_text())["spec"]["rayClusterConfig"]

    def pods(self) -> list[dict[str, Any]]:
        groups = [self.CLUSTER["headGroupSpec"], *self.CLUSTER["workerGroupSpecs"]]
        return [group["template"]["spec"] for group in groups]

    @pytest.mark.parametrize("name", RAY)
    def test_fields_are_kuberays(self, name: str) -> None:
        check = program("check-jsonschema")
        passes(check, "--schemafile", ROOT / "tests" / "kuberay.json", DOCKER / "kubernetes" / f"{name}.yaml")

    def test_misspelt_fields_are_found(self, tmp_path: Path) -> None:
        wrong = tmp_path / "wrong.yaml"
        for before, after in (("submissionMode:", "submitMode:"), ("replicas: 4", "replica: 4"), ("HTTPMode", "HttpMode")):
            text = (DOCKER / "kubernetes" / "ray-bulk.yaml").read_text()
            assert before in text
            wrong.write_text(text.replace(before, after, 1))
            with pytest.raises(AssertionError, match=r"(?i)schema"):
                passes(program("check-jsonschema"), "--schemafile", ROOT / "tests" / "kuberay.json", wrong)

    def test_pods_pass_the_schema_and_have_no_rights(self, tmp_path: Path) -> None:
        for index, pod in enumerate(self.pods()):
            file = tmp_path / f"{index}.yaml"
            file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}))
            passes(program("kubernetes-validate"), "--strict", file)
            (container,) = pod["containers"]
            assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == UID
            assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}

    def test_ray_and_the_image_are_those_of_the_service(self) -> None:
        assert self.CLUSTER["rayVersion"] == self.SERVICE["rayVersion"]
        service = self.SERVICE["headGroupSpec"]["template"]["spec"]["containers"][0]
        assert {pod["containers"][0]["image"] for pod in self.pods()} == {service["image"]}

    def test_the_command_is_one_that_fills_the_workers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The command line is parsed as a user's would be, up to where Ray starts."""
        from laconic import bulk, bulk_ray, cli

        asked: list[tuple[Any, ...]] = []
        monkeypatch.setattr(bulk_ray, "RayEngine", lambda *given: asked.append(given))
        monkeypatch.setattr(bulk, "bulk", lambda *given, **how: asked.append(given) or bulk.Summary())
        program_, *arguments = self.JOB["spec"]["entrypoint"].split()
        monkeypatch.setattr("laconic.commands.print_json", lambda **facts: None)
        assert program_ == "laconic" and cli.main([*arguments, "--json"]) == 0
        (actors, gpus, device), (source, destination, encoding) = asked
        bulk._check(encoding)  # settings that the codec has
        assert source.startswith("s3://") and destination.startswith("s3://") and (gpus, device) == (0, "auto")
        places = sum(
            group["replicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
            for group in self.CLUSTER["workerGroupSpecs"]
        )
        assert actors == places, "a process takes one processor"


class TestContainerCheck:
    SCRIPT = ROOT / "scripts" / "container-check"

    def run(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the script where little more than a shell is installed."""
        for name in ("bash", "dirname", "id", "python3", "sed"):
            found = shutil.which(name)
            assert found
            (folder / name).symlink_to(found)
        return subprocess.run(
            [self.SCRIPT, *arguments], env={"PATH": str(folder)}, capture_output=True, text=True, check=False, timeout=30
        )

    def test_it_says_what_it_lacks(self, tmp_path: Path) -> None:
        done = self.run(tmp_path)
        assert done.returncode == 2
        assert "needs root" in done.stderr and "apt-get install -y buildah" in done.stderr
        assert "missing: buildah" in done.stderr

    def test_it_explains_its_options(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, "--wrong")
        assert done.returncode == 2
        assert done.stderr.startswith("Builds the image") and all(
            option in done.stderr for option in ("--variant", "--base", "--no-build")
        )

    @pytest.mark.parametrize("script", ["docker/slim", "docker/start", "scripts/container-check"])
    def test_scripts_parse_and_can_be_run(self, script: str) -> None:
        path = ROOT / script
        assert path.stat().st_mode & 0o111 == 0o111
        passes("bash" if "bash" in path.read_text().splitlines()[0] else "sh", "-n", path)
