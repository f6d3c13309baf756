"""docker/: what can be held against the code and against the tools' own rules without a container engine.

Docs say what was run by hand beyond this: docs/deployment.md.
"""

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess

import jsonschema
import pytest
import yaml

from daemon import BIN, ROOT
from dockerfile import DOCKER, compose, context, read_dockerfile, schema, seconds, settings

TOOLS = ROOT / "target" / "docker-tools"
IMAGES = ("cpu", "gpu", "v100")
PAGE = ROOT / "docs" / "deployment.md"
# Over which an upload of the context would be felt.
MAX_CONTEXT_BYTES = 16 << 20
USER = 10001


def run(command, **options):
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, **options)
    assert ran.returncode == 0, f"{command}: {ran.returncode}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return ran.stdout


def manifest():
    """Cargo.toml's tables as (header, key to value as it is written), in their order."""
    tables = re.split(r"^(\[.*\])$", (ROOT / "Cargo.toml").read_text(), flags=re.M)
    pairs = [dict(re.findall(r"^([\w-]+) = (.*)$", text, re.M)) for text in tables[2::2]]
    return list(zip(tables[1::2], pairs))


@functools.cache
def flags(command):
    """The environment variables of a subcommand's flags, with their defaults."""
    text = run([BIN, command, "--help"], env={"PATH": os.environ["PATH"], "COLUMNS": "1000"})
    found = {}
    for paragraph in re.split(r"\n\s*\n|\n(?=\s+-)", text):
        if variable := re.search(r"\[env: (VISORD_\w+)=", paragraph):
            default = re.search(r"\[default: ([^\]]*)\]", paragraph)
            found[variable[1]] = default and default[1]
    assert len(found) > 20, f"the help has another form: {text}"
    return found


# ---- the Dockerfile


def test_hadolint_finds_nothing():
    assert (TOOLS / "bin" / "hadolint").exists(), "no hadolint: make client-tools"
    findings = run([TOOLS / "bin" / "hadolint", "--no-color", "--failure-threshold", "ignore", DOCKER / "Dockerfile"])
    assert findings == ""


def test_what_hadolint_shall_ignore_has_a_reason():
    _, stages = read_dockerfile()
    ignored = [i for s in stages.values() for i in s.instructions if "hadolint ignore" in i.comment]
    for instruction in ignored:
        reason = [line for line in instruction.comment.splitlines() if "hadolint" not in line]
        assert reason, f"hadolint is told to be silent without a reason: {instruction.text}"


def test_every_base_is_pinned_by_tag_and_digest():
    arguments, stages = read_dockerfile()
    for name, stage in stages.items():
        base = stage.base
        if base in stages:
            continue
        variable = re.fullmatch(r"\$\{(\w+)\}", base)
        assert variable, f"{name}: {base} is not an argument"
        assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", arguments[variable[1]]), f"{name}: {arguments}"


def test_versions_are_those_of_cargo_toml():
    package = {key: value.strip('"') for key, value in dict(manifest())["[package]"].items()}
    arguments, stages = read_dockerfile()
    assert arguments["RUST_IMAGE"].startswith(f"rust:{package['rust-version']}."), arguments["RUST_IMAGE"]
    for image in IMAGES:
        assert f"VERSION={package['version']}" in stages[image].texts("ARG"), image
        labels = stages[image].pairs("LABEL")
        assert labels["org.opencontainers.image.licenses"] == package["license"], image
        assert labels["org.opencontainers.image.version"] == "$VERSION", image
        assert labels["org.opencontainers.image.revision"] == "$REVISION", image


def test_every_copied_file_is_in_the_context():
    files, _ = context()
    _, stages = read_dockerfile()
    for name, stage in stages.items():
        for origin, sources, _ in stage.copies():
            for source in sources if origin is None else ():
                assert (ROOT / source).exists(), f"{name}: COPY {source}: there is no such file"
                path = pathlib.PurePosixPath(source)
                assert any(f == path or path in f.parents for f in files), \
                    f"{name}: COPY {source}: .dockerignore keeps it out of the context"
            if origin is not None:
                assert origin in stages, f"{name}: COPY --from={origin}: there is no such stage"


def test_the_context_holds_nothing_else():
    files, taken = context()
    _, stages = read_dockerfile()
    copies = [copy for stage in stages.values() for copy in stage.copies()]
    copied = [source for origin, sources, _ in copies if origin is None for source in sources]
    for pattern, found in taken.items():
        assert found, f".dockerignore lets in {pattern}, which is not there"
        used = any(s == str(pattern) or str(pattern).startswith(f"{s}/") for s in copied)
        assert used, f".dockerignore lets in {pattern}, which nothing copies"
    size = sum((ROOT / f).stat().st_size for f in files)
    largest = sorted(files, key=lambda f: -(ROOT / f).stat().st_size)[:5]
    assert size < MAX_CONTEXT_BYTES, f"the context has {size} bytes, most of them in {largest}"


def test_what_the_code_includes_is_in_the_context():
    files, _ = context()
    checked = 0
    for source in (ROOT / "src").rglob("*.rs"):
        for name in re.findall(r'include(?:_str|_bytes)?!\((?:concat!\()?"([^"]+)"', source.read_text()):
            included = (source.parent / name).resolve().relative_to(ROOT)
            # Unit tests include what the tests have; they are not built here.
            if included.parts[0] == "tests":
                continue
            checked += 1
            assert pathlib.PurePosixPath(included) in files, f"{source.name} includes {included}: not in the context"
    assert checked >= 2, "src/gpu/kernels.rs includes two kernels"


def test_cargo_needs_no_file_that_is_left_out():
    """A target without a path is looked for, and is an error where it is not: `cargo build` of another one too."""
    kinds = ("[[test]]", "[[bench]]", "[[example]]", "[[bin]]")
    targets = [(header, keys) for header, keys in manifest() if header in kinds]
    assert len(targets) > 4, "Cargo.toml has another form"
    for header, keys in targets:
        assert "path" in keys, f"Cargo.toml: {header} {keys['name']} needs a path: docker/Dockerfile lacks its file"
    assert dict(manifest())["[package]"]["autotests"] == "false"


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_nobody_in_particular(image):
    _, stages = read_dockerfile()
    stage = stages[image]
    assert stage.texts("USER") == [f"{USER}:{USER}"]
    assert stage.texts("STOPSIGNAL") == ["SIGTERM"]
    assert stage.texts("ENTRYPOINT") == ['["visord"]']
    assert stage.texts("CMD") == ['["serve"]']
    defaults = flags("serve")
    ports = [defaults[f"VISORD_{name}_PORT"] for name in ("HTTP", "GRPC", "METRICS")]
    assert stage.texts("EXPOSE") == [" ".join(ports)]
    (health,) = stage.texts("HEALTHCHECK")
    command = json.loads(health.partition(" CMD ")[2])
    assert command == ["visord", "doctor", "--health", f"http://127.0.0.1:{ports[2]}/v2/health/ready"]
    environment = stage.pairs("ENV")
    known = {name for name in environment if name.startswith("VISORD_")}
    assert known <= set(defaults), f"no flag of `visord serve`: {known - set(defaults)}"
    assert any(f"install -d -o {USER} -g {USER}" in text and environment["VISORD_PLAN_CACHE"] in text
               for text in stage.texts("RUN")), "nobody but root could write the plan cache"
    # No flag says which of a stage's users runs it: the last USER does, and nothing is run after it.
    words = [i.word for i in stage.instructions]
    assert "RUN" not in words[words.index("USER"):]


@pytest.mark.parametrize("image, major", [("gpu", 11), ("v100", 10)])
def test_a_gpu_image_has_what_is_used_and_no_more(image, major):
    arguments, stages = read_dockerfile()
    stage = stages[image]
    names = re.findall(r'"([\w.+-]+)=\$(\w+)"', " ".join(stage.texts("RUN")))
    packages = [name for name, _ in names]
    cuda = ".".join(re.search(r"cuda:(\d+)\.(\d+)", arguments[stage.base[2:-1]]).groups())
    nvjpeg = f"libnvjpeg-{cuda.replace('.', '-')}"
    assert packages == [f"libnvinfer{major}", f"libnvinfer-plugin{major}", f"libnvonnxparsers{major}", nvjpeg]
    for name, variable in names:
        version = arguments[variable]
        assert version.endswith(f"+cuda{cuda}") or name == nvjpeg, f"{name} {version} is not for CUDA {cuda}"
    # nvJPEG's engine needs `video`, NVML `utility`.
    assert stage.pairs("ENV")["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility,video"


# ---- compose


def test_compose_files_follow_the_specification():
    assert TOOLS.exists(), "no schema: make client-tools"
    specification = schema(TOOLS)
    files = sorted(DOCKER.glob("compose*.yaml"))
    assert len(files) == 2
    for path in files:
        jsonschema.validate(compose(path), specification)


@pytest.mark.parametrize("profile", IMAGES)
def test_one_visord_runs_under_one_name(profile):
    services = compose()["services"]
    running = {name for name, service in services.items() if profile in service["profiles"]}
    assert running == {f"visord-{profile}", "prometheus", "grafana"}
    service = services[f"visord-{profile}"]
    assert service["networks"]["default"]["aliases"] == ["visord"]
    assert service["build"]["target"] == profile
    build = service["build"]
    assert (DOCKER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).samefile(DOCKER / "Dockerfile")
    _, stages = read_dockerfile()
    declared = {text.partition("=")[0] for text in stages[profile].texts("ARG")}
    assert set(build["args"]) <= declared


def test_a_gpu_is_reserved_where_one_is_used():
    for name, service in compose()["services"].items():
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices")
        if name in ("visord-gpu", "visord-v100"):
            assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}], name
            assert service["environment"]["VISORD_REQUIRE_GPU"] is True, name
            assert "plans:/var/cache/visord" in service["volumes"], name
        else:
            assert devices is None, name


def test_every_container_is_held_in():
    for name, service in compose()["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert 0 < service["pids_limit"] <= 4096, name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}, name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert not {"privileged", "cap_add", "user", "network_mode", "pid"} & set(service), name
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), f"{name}: {port} is open to the network"


def test_every_mounted_file_is_there():
    volumes = set(compose()["volumes"])
    for name, service in compose()["services"].items():
        for volume in service["volumes"]:
            source, _, rest = volume.partition(":")
            if source in volumes:
                continue
            assert (DOCKER / source).is_dir(), f"{name}: {source} is not there: Docker would make an empty folder"
            assert rest.endswith(":ro"), f"{name}: {volume} could be written"
    used = {v.partition(":")[0] for s in compose()["services"].values() for v in s["volumes"]}
    assert volumes <= used, volumes - used
    for service, files in {
        "prometheus": ["prometheus.yml", "rules"],
        "alertmanager": ["alertmanager.yml"],
        "grafana": ["provisioning/datasources/visord.yml", "provisioning/dashboards/visord.yml", "dashboards"],
    }.items():
        for file in files:
            assert (DOCKER / service / file).exists(), f"{service}/{file}"


def test_monitoring_finds_what_compose_calls_it():
    services = compose()["services"]
    prometheus = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    targets = {t for job in prometheus["scrape_configs"] for c in job["static_configs"] for t in c["targets"]}
    assert f"visord:{flags('serve')['VISORD_METRICS_PORT']}" in targets
    managers = [t for m in prometheus["alerting"]["alertmanagers"] for c in m["static_configs"] for t in c["targets"]]
    for host in [t.partition(":")[0] for t in managers]:
        assert host in services
    sources = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/visord.yml").read_text())
    assert sources["datasources"][0]["url"] == "http://prometheus:9090"
    boards = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/visord.yml").read_text())
    folder = boards["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{folder}:ro" in services["grafana"]["volumes"]
    path = next(a.partition("=")[2] for a in services["prometheus"]["command"] if a.startswith("--config.file="))
    assert f"./prometheus:{pathlib.PurePosixPath(path).parent}:ro" in services["prometheus"]["volumes"]


def test_docker_waits_longer_than_the_daemon():
    defaults = flags("serve")
    for image in IMAGES:
        service = compose()["services"][f"visord-{image}"]
        environment = service["environment"]
        for name in ("VISORD_EXIT_DELAY_SECS", "VISORD_EXIT_TIMEOUT_SECS"):
            assert str(environment[name]) == defaults[name], f"{image}: {name}"
        needed = sum(int(environment[n]) for n in ("VISORD_EXIT_DELAY_SECS", "VISORD_EXIT_TIMEOUT_SECS"))
        assert seconds(service["stop_grace_period"]) >= needed + 15, image
        connections = 3 * int(defaults["VISORD_MAX_CONNECTIONS"])
        assert service["ulimits"]["nofile"]["soft"] > connections, image


def test_what_is_set_is_a_flag_of_serve():
    known = set(flags("serve"))
    for path in sorted(DOCKER.glob("compose*.yaml")):
        used = set(re.findall(r"VISORD_\w+", path.read_text()))
        assert used, path.name
        assert used <= known, f"{path.name}: no flag of `visord serve`: {used - known}"


def test_every_setting_is_described():
    page = PAGE.read_text()
    for name, defaults in settings().items():
        row = next((line for line in page.splitlines() if line.startswith(f"| `{name}` |")), None)
        assert row or (not defaults and f"`{name}`" in page), f"docs/deployment.md has no row for {name}"
        for default in defaults:
            assert f"`{default}`" in row.split("|")[2], f"{name}: its default is {default}, the page says {row}"
    described = set(re.findall(r"^\| `([A-Z][A-Z_]+)` \|", page, re.M))
    assert described <= set(settings()), f"not a setting any more: {described - set(settings())}"


def bare():
    """An environment without any setting of ours; Docker finds its plugins by HOME."""
    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


@functools.cache
def compose_tool():
    """The `docker compose` of this machine, the newest kind that there is."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"], True
    if shutil.which("docker-compose"):
        version = run(["docker-compose", "version", "--short"])
        return ["docker-compose"], not version.startswith("1.")
    assert "CI" not in os.environ, "no docker compose and no docker-compose here"
    return pytest.skip("NOT TESTED: this machine has no docker compose and no docker-compose")


@pytest.mark.toolchain
@pytest.mark.parametrize("profile, files", [
    ("cpu", ["compose.yaml", "compose.tls.yaml"]),
    ("gpu", ["compose.yaml"]),
    ("gpu", ["compose.yaml", "compose.tls.yaml"]),
    ("v100", ["compose.yaml"]),
])
def test_compose_itself_reads_it(profile, files, tmp_path):
    tool, current = compose_tool()
    environment = {**bare(), "TLS_FOLDER": "/tls-of-the-host"}
    folder = DOCKER
    if not current:
        # Compose 1.29 does not know the project's name, and nothing else is new to it.
        folder = tmp_path / "docker"
        folder.mkdir()
        for file in files:
            text = (DOCKER / file).read_text()
            (folder / file).write_text(re.sub(r"^name: .*\n", "", text, flags=re.M))
    arguments = [a for file in files for a in ("-f", folder / file)]
    read = yaml.safe_load(run([*tool, *arguments, "--profile", profile, "config"], env=environment, cwd=folder))
    service = read["services"][f"visord-{profile}"]
    assert service["networks"]["default"]["aliases"] == ["visord"]
    assert service["cap_drop"] == ["ALL"] and service["read_only"] is True
    ours = compose()["services"][f"visord-{profile}"]
    assert seconds(service["stop_grace_period"]) == seconds(ours["stop_grace_period"])
    assert len(service["ports"]) == 3
    environment = service["environment"]
    assert environment["VISORD_EXIT_TIMEOUT_SECS"] == "30"
    assert environment.get("VISORD_BACKEND") is None
    mounted = [v if isinstance(v, str) else f"{v['source']}:{v['target']}" for v in service["volumes"]]
    assert any(v.startswith(f"{folder.parent / 'engines'}:/models") for v in mounted), mounted
    with_tls = len(files) == 2
    assert any(v.startswith("/tls-of-the-host:/tls") for v in mounted) == with_tls, mounted
    assert (environment.get("VISORD_TLS_CERT") == "/tls/tls.crt") == with_tls
    if profile != "cpu":
        assert any("plans" in v for v in mounted), mounted
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"] and device["count"] in ("all", -1), device


@pytest.mark.toolchain
def test_compose_says_which_setting_of_tls_is_missing(tmp_path):
    tool, current = compose_tool()
    if not current:
        tool = [*tool, "--project-directory", tmp_path]
    ran = subprocess.run(
        [*tool, "-f", DOCKER / "compose.tls.yaml", "config"], capture_output=True, text=True, cwd=tmp_path,
        env=bare(),
    )
    assert ran.returncode != 0
    assert "TLS_FOLDER" in ran.stderr and "a folder with tls.crt and tls.key" in ran.stderr, ran.stderr


def test_the_health_check_tells_ready_from_not(plain):
    """The image's own command, with this daemon's port in place of the container's."""
    _, stages = read_dockerfile()
    (health,) = stages["cpu"].texts("HEALTHCHECK")
    command = json.loads(health.partition(" CMD ")[2])
    assert command[0] == "visord"
    ready = [BIN, *[a.replace(":8002/", f":{plain.metrics_port}/") for a in command[1:]]]
    assert subprocess.run(ready, capture_output=True, timeout=30).returncode == 0
    # A path that the port does not have answers 404.
    other = [*ready[:-1], ready[-1].replace("/ready", "/nobody")]
    assert subprocess.run(other, capture_output=True, timeout=30).returncode != 0
