"""The page at `/` in a real Chromium against the real daemon: the drop, the numbers, the errors, and who can use it."""

import base64
import contextlib
import json
import math
import os
import re
import subprocess
import threading
import time

import cv2
import numpy as np
import onnx
import pytest
import requests
from playwright.sync_api import expect, sync_playwright
from prometheus_client.parser import text_string_to_metric_families

from browser import chromium, launch
from daemon import IMAGES, MODEL, Daemon, copy_repository, cosine, embeddings, face, golden, v1_array
from networks import Net

PATIENCE_MS = 30_000
LABELS = ["ant", "bee", "cat: wild", "dog", "eel", "fox", "gnu"]
IMAGE = '[image]\nwidth = 16\nheight = 16\nmean = 127.5\nscale = 0.0078125\n'
STAGES = ("request", "queue", "decode", "preprocess", "compute", "postprocess")

if not chromium():
    assert not os.environ.get("CI"), "there is no Chromium: apt-get install chromium"
    pytest.skip("NOT TESTED: the page at /, for want of Chromium (apt-get install chromium)", allow_module_level=True)

expect.set_options(timeout=PATIENCE_MS)


def classifier(seed=3, scale=4.0):
    """Scores of seven classes of a picture."""
    net = Net(seed=seed)
    a = net("Conv", net.input("x", [3, 16, 16]), net.normal(8, 3, 5, 5), strides=[3, 3], dilations=[1, 1], pads=[0] * 4)
    a = net("Gemm", net("Flatten", net("Relu", a)), net.normal(len(LABELS), 8 * 4 * 4, scale=scale / 11), transB=1)
    net("Identity", a, to="scores")
    net.output("scores", [len(LABELS)])
    return net.model()


def field():
    """A picture's own pixels at half the size: an output that is no row."""
    net = Net()
    net("AveragePool", net.input("x", [3, 16, 16]), to="map", kernel_shape=[2, 2], strides=[2, 2])
    net.output("map", [3, 8, 8])
    return net.model()


def tensors():
    net = Net()
    net("Relu", net.input("x", [4]), to="y")
    net.output("y", [4])
    return net.model()


def add(repository, name, model, settings, **files):
    version = repository / name / "1"
    version.mkdir(parents=True)
    onnx.save(model, version / "model.onnx")
    (repository / name / "model.toml").write_text(f"max_batch_size = 4\n{settings}")
    for file, text in files.items():
        (repository / name / file).write_text(text)
    return repository


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """ArcFace, a classifier with labels, one of bare scores, one whose output is a map, one of tensors."""
    repository = copy_repository(tmp_path_factory.mktemp("console"))
    labelled = '[[output]]\nname = "scores"\nlabel_filename = "labels"\nsoftmax = true\n'
    add(repository, "Animals", classifier(), IMAGE + labelled, labels="\n".join(LABELS) + "\n")
    add(repository, "Scores", classifier(), IMAGE)
    add(repository, "Map", field(), IMAGE)
    add(repository, "Tensors", tensors(), "")
    with Daemon("--max-body-bytes", "600000", repository=repository) as running:
        yield running


@pytest.fixture(scope="module")
def chrome():
    with sync_playwright() as play:
        browser = launch(play)
        yield browser
        browser.close()


class Watched:
    """Pages that are watched: what they log, what they ask and whom, what the policy stopped."""

    def __init__(self, chrome):
        self.chrome, self.contexts = chrome, []
        self.logged, self.asked, self.expected = [], [], []

    def open(self, daemon, path="/", ready=True, **options):
        context = self.chrome.new_context(**options)
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda m: self.logged.append(f"{m.type}: {m.text} ({m.location.get('url')})"))
        page.on("pageerror", lambda e: self.logged.append(f"thrown: {e}"))
        page.on("request", lambda r: self.asked.append(r.url))
        page.add_init_script("""
            window.violations = [];
            document.addEventListener('securitypolicyviolation', (e) => window.violations.push(e.violatedDirective + ' ' + e.blockedURI));
        """)
        page.goto(daemon.url(path))
        self.address = daemon.address
        if ready:
            expect(page.locator("#state")).to_have_text("Ready")
            expect(page.locator("#try-model option").first).to_be_attached()
        return page

    def close(self):
        for context in self.contexts:
            for page in context.pages:
                if page.url.startswith("http"):
                    assert page.evaluate("window.violations") == [], "the policy stopped something"
            context.close()
        unexpected = [line for line in self.logged if not any(re.search(e, line) for e in self.expected)]
        assert unexpected == [], unexpected
        strangers = {url for url in self.asked if not re.match(rf"(http://{self.address}/|blob:http://{self.address}/)", url)}
        assert strangers == set(), f"other hosts were asked: {strangers}"


@pytest.fixture
def watched(chrome):
    watched = Watched(chrome)
    yield watched
    watched.close()


def transfer(page, *files):
    """A DataTransfer with these files, as a browser makes it of a drop."""
    given = [{"name": name, "type": kind, "data": base64.b64encode(data).decode()} for name, kind, data in files]
    return page.evaluate_handle("""(files) => {
        const transfer = new DataTransfer();
        for (const { name, type, data } of files) {
            transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type }));
        }
        return transfer;
    }""", given)


def drop(page, slot, *files):
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event(f"#slot-{slot}", event, {"dataTransfer": transfer(page, *files)})


def choose(page, model):
    page.select_option("#try-model", json.dumps([model, ""], separators=(",", ":")))


def ask(daemon, model, data):
    return requests.post(daemon.url(f"/v1/models/{model}/infer"), data=data, headers={"Content-Type": "image/jpeg"})


def shown(page, selector):
    """A number as the page writes it, with its typographic minus."""
    return float(page.locator(selector).inner_text().replace("\u2212", "-").replace(",", ""))


FACE, ASTRONAUT = ("face.jpg", "image/jpeg", face()), ("astronaut.jpg", "image/jpeg", golden("astronaut.jpg"))


def test_two_dropped_images_are_compared(served, watched):
    page = watched.open(served)
    choose(page, MODEL)
    drop(page, "a", FACE)
    expect(page.locator("#results")).to_contain_text("192")
    expect(page.locator("#cosine")).to_have_count(0)
    drop(page, "b", ASTRONAUT)
    expect(page.locator("#cosine")).to_be_visible()
    rows = [v1_array(ask(served, MODEL, file[2]).json()) for file in (FACE, ASTRONAUT)]
    exact = float(page.get_attribute("#cosine", "data-exact"))
    assert abs(exact - cosine(*rows)) < 1e-4, f"the page says {exact}, the API's outputs {cosine(*rows)}"
    wanted = cosine(embeddings()["face.jpg"], embeddings()["astronaut.jpg"])
    assert abs(exact - wanted) < 0.02, f"the page says {exact}, ONNX Runtime {wanted}"
    assert shown(page, "#cosine") == round(exact, 4)
    assert abs(shown(page, "#l2") - float(np.linalg.norm(rows[0] - rows[1]))) < 0.02
    meter = page.get_by_role("meter", name="Cosine")
    assert abs(float(meter.get_attribute("aria-valuenow")) - exact) < 1e-4
    bar = page.locator(".cosine-fill").evaluate("(e) => [e.offsetLeft, e.offsetWidth, e.parentElement.clientWidth]")
    # The bar grows into place.
    page.wait_for_function(
        "(share) => { const e = document.querySelector('.cosine-fill'); "
        "return Math.abs(e.offsetWidth / e.parentElement.clientWidth - share) < 0.02; }", arg=abs(exact) / 2)
    assert abs(bar[0] / bar[2] - (min(exact, 0) + 1) / 2) < 0.02
    expect(page.locator("#result-status")).to_contain_text(f"Cosine {exact:.4f}")
    expect(page.locator("#result-times")).to_contain_text(re.compile(r"A [\d.,]+ ms, B [\d.,]+ ms; version 1"))
    # The same image twice, two at once, by pasting.
    page.click("#clear-a")
    page.click("#clear-b")
    expect(page.locator("#results")).to_be_empty()
    page.evaluate("(clipboardData) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData, cancelable: true }))",
                  transfer(page, FACE, FACE))
    expect(page.locator("#cosine")).to_have_text("1.0000")
    for slot in ("a", "b"):
        size = page.locator(f"#picture-{slot}").evaluate("(e) => e.decode().then(() => [e.naturalWidth, e.naturalHeight])")
        assert min(size) > 10, f"no preview: {size}"


def test_the_largest_classes_are_those_of_the_api(served, watched):
    page = watched.open(served)
    choose(page, "Animals")
    page.set_input_files("#file-a", IMAGES / "face.jpg")
    items = page.get_by_role("list", name="Largest classes of image A").get_by_role("listitem")
    expect(items).to_have_count(5)
    asked = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(face()).decode()]}],
             "outputs": [{"name": "scores", "parameters": {"classification": 5}}]}
    answer = requests.post(served.url("/v2/models/Animals/infer"), json=asked).json()
    wanted = [element.split(":", 2) for element in answer["outputs"][0]["data"]]
    for item, (value, index, label) in zip(items.all(), wanted, strict=True):
        assert item.get_attribute("data-index") == index
        assert item.locator(".bar-label").inner_text() == label == LABELS[int(index)]
        share = float(re.match(r"[\d.]+", item.locator(".bar-value").inner_text().removeprefix("< "))[0]) / 100
        assert abs(share - float(value)) < 0.006, f"{label}: {share}, the API says {value}"
    expect(page.locator("#result-status")).to_contain_text(f"{wanted[0][2]}")
    # Scores, read as classes: softmax, and the scores beside it.
    choose(page, "Scores")
    expect(page.locator(".result.embedding")).to_be_visible()
    page.select_option("#try-as", "classes")
    expect(page.locator(".bar-label").first).to_have_text(f"class {wanted[0][1]}")
    scores = v1_array(ask(served, "Scores", face()).json())[0]
    largest = float(np.exp(scores - scores.max())[int(wanted[0][1])] / np.exp(scores - scores.max()).sum())
    assert abs(largest - float(wanted[0][0])) < 0.005
    text = page.locator(".bar-value").first.inner_text().replace("\u2212", "-")
    share, score = re.match(r"([\d.]+) % (-?[\d.]+)", text).groups()
    assert abs(float(share) / 100 - largest) < 0.006 and abs(float(score) - float(scores.max())) < 0.001, text


def test_other_outputs_are_numbers_with_their_shape(served, watched):
    page = watched.open(served)
    choose(page, "Map")
    page.set_input_files("#file-a", IMAGES / "face.jpg")
    expect(page.locator(".result.numbers h3")).to_contain_text("FP32 [1, 3, 8, 8]")
    wanted = v1_array(ask(served, "Map", face()).json()).ravel()[:8]
    cells = page.locator(".firsts td").all_inner_texts()
    assert [float(c.replace("\u2212", "-")) for c in cells] == pytest.approx(list(wanted), abs=1e-4)
    # A model of tensors is told apart, and says how it is asked.
    choose(page, "Tensors")
    expect(page.locator("#try-hint")).to_contain_text("takes tensors")
    expect(page.locator("#try-run")).to_be_disabled()
    expect(page.locator("#commands")).to_contain_text('"datatype":"FP32"')


def test_errors_are_the_server_s_own(served, watched):
    watched.expected = [r"Failed to load resource.*(400|413|ERR_)"]
    page = watched.open(served)
    choose(page, MODEL)
    alert = page.locator("#result-error")
    for name in ("truncated_jpeg_30.jpg", "text.bin"):
        data = (IMAGES.parent / "bad" / name).read_bytes()
        drop(page, "a", (name, "image/jpeg", data))
        answer = ask(served, MODEL, data)
        assert answer.status_code == 400
        expect(alert).to_contain_text("HTTP 400")
        # The image's number and place come before it in each protocol's own way; the reason is the same.
        expect(alert).to_contain_text(answer.json()["error"].rsplit(": ", 1)[-1])
        assert alert.get_attribute("role") == "alert"
        expect(page.locator("#name-a")).to_contain_text(name)
    expect(page.locator(".slot-unseen").first).to_be_visible()
    drop(page, "a", ("huge.jpg", "image/jpeg", face() + bytes(700_000)))
    expect(alert).to_contain_text("--max-body-bytes")
    # One of two is bad: the other's answer is shown.
    drop(page, "a", FACE, ("text.bin", "", b"no image"))
    expect(alert).to_contain_text("Image B: HTTP 400")
    expect(page.locator("#results")).to_contain_text("192")
    drop(page, "b", FACE)
    expect(page.locator("#cosine")).to_have_text("1.0000")
    expect(alert).to_be_empty()


def families(text):
    return {s_key: s.value for f in text_string_to_metric_families(text) for s in f.samples
            for s_key in [(s.name, frozenset(s.labels.items()))]}


def growth(before, after, name, **labels):
    wanted = set(labels.items())
    return sum(value - before.get(key, 0) for key, value in after.items() if key[0] == name and wanted <= key[1])


def quantile(q, before, after, name, **labels):
    """`histogram_quantile`, as Prometheus documents it."""
    bounds = {}
    for key, value in after.items():
        if key[0] == f"{name}_bucket" and set(labels.items()) <= key[1]:
            bound = float(dict(key[1])["le"])
            bounds[bound] = bounds.get(bound, 0) + value - before.get(key, 0)
    rank, lower, below = q * bounds[math.inf], 0.0, 0.0
    if not bounds[math.inf]:
        return math.nan
    for bound in sorted(bounds):
        if bounds[bound] >= rank:
            return lower if bound == math.inf else lower + (bound - lower) * (rank - below) / (bounds[bound] - below)
        lower, below = bound, bounds[bound]
    raise AssertionError(name)


def read_seconds(text):
    if text.startswith(("–", ">")):
        return math.nan
    value, unit = text.replace(",", "").split()
    return float(value) * {"µs": 1e-6, "ms": 1e-3, "s": 1}[unit]


def test_the_pictures_move_and_their_numbers_are_those_of_metrics(served, watched):
    page = watched.open(served)
    scrapes = []

    def answered(response):
        if response.url.endswith("/metrics"):
            with contextlib.suppress(Exception):
                scrapes.append(families(response.text()))

    page.on("response", answered)
    choose(page, "Tensors")
    page.select_option("#live-model", json.dumps([MODEL, "1"], separators=(",", ":")))
    page.wait_for_timeout(1100)
    clients = [threading.Thread(target=lambda: [ask(served, MODEL, face()) for _ in range(12)]) for _ in range(4)]
    [client.start() for client in clients]
    while any(client.is_alive() for client in clients):
        page.wait_for_timeout(100)
    assert [ask(served, MODEL, b"no image").status_code for _ in range(3)] == [400] * 3
    after = families(requests.get(served.url("/metrics")).text)
    total = lambda **labels: growth({}, after, "visord_inference_requests_total", model=MODEL, **labels)
    success = total(outcome="success")
    page.get_by_text("Numbers behind the pictures").click()
    expect(page.locator("#total-success")).to_have_text(f"{success:,.0f}")
    expect(page.locator("#total-failed")).to_have_text(f"{total() - success:,.0f}")
    # A line needs two seconds with requests in what they look back on.
    expect(page.locator("#chart-latency .line.c0")).to_have_attribute("d", re.compile("L"))
    page.click("#pause")
    expect(page.locator("#pause")).to_have_text("Resume")
    for name, metric in (("rows", "visord_inference_rows_total"), ("batches", "visord_inference_executions_total")):
        assert shown(page, f"#total-{name}") == growth({}, after, metric, model=MODEL), name
    assert page.inner_text("#reasons-body").split() == ["not_an_image", "3"]
    # Percentiles are of the ten seconds before: of one of the scrapes that the page has read.
    page.wait_for_timeout(50)
    count = len(scrapes)
    table = {(stage, q): read_seconds(page.inner_text(f'[data-stat="{stage}-{q}"]')) for stage in STAGES for q in ("p50", "p95", "p99")}
    last = scrapes[-1]
    assert growth({}, last, "visord_inference_requests_total", model=MODEL, outcome="success") == success
    differences = []
    for before in scrapes[:-1]:
        wanted = {(stage, q): quantile(int(q[1:]) / 100, before, last, f"visord_inference_{stage}_duration_seconds", model=MODEL)
                  for stage, q in table}
        differences.append([(key, table[key], wanted[key]) for key in table if table[key] != pytest.approx(wanted[key], rel=0.006, nan_ok=True)])
    assert [] in differences, f"of {count} scrapes none gives these percentiles: {min(differences, key=len)}"
    assert not math.isnan(table["compute", "p99"])
    # What is drawn is in it: lines with points, a batch, a sentence with numbers.
    for chart in ("rate", "latency", "queue"):
        assert "L" in page.locator(f"#chart-{chart} .line.c0").get_attribute("d"), chart
    assert any(page.locator(f"#chart-batch .h{i}").get_attribute("d") for i in range(5))
    label = page.locator("#chart-latency svg").get_attribute("aria-label")
    assert page.inner_text('[data-stat="request-p99"]') in label and "p50" in label, label
    # Standing still, and on again.
    before = page.locator("#chart-rate .line.c0").get_attribute("d")
    page.wait_for_timeout(1200)
    assert page.locator("#chart-rate .line.c0").get_attribute("d") == before and len(scrapes) == count
    page.click("#pause")
    page.wait_for_function("(d) => document.querySelector('#chart-rate .line.c0').getAttribute('d') !== d", arg=before)
    # A hidden tab asks nothing.
    page.evaluate("""() => {
        Object.defineProperty(document, 'hidden', { configurable: true, get: () => true });
        document.dispatchEvent(new Event('visibilitychange'));
    }""")
    page.wait_for_timeout(300)
    count = len(scrapes)
    page.wait_for_timeout(1500)
    assert len(scrapes) == count, "a hidden tab goes on asking"
    page.evaluate("() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); }")
    with page.expect_response("**/metrics"):
        pass


def test_a_restart_is_survived(tmp_path, watched):
    watched.expected = [r"Failed to load resource"]
    repository = add(tmp_path / "models", "Scores", classifier(), IMAGE)
    with Daemon(repository=repository, backend="rten") as daemon:
        page = watched.open(daemon)
        for _ in range(3):
            assert ask(daemon, "Scores", face()).status_code == 200
        page.get_by_text("Numbers behind the pictures").click()
        expect(page.locator("#total-success")).to_have_text("3")
        daemon.terminate()
        expect(page.locator("#state")).to_have_text("No connection")
        expect(page.locator("#why")).to_contain_text("Trying again")
        daemon.signalled = False
        daemon.spawn()
        daemon.await_ready()
        expect(page.locator("#state")).to_have_text("Ready")
        expect(page.locator("#notice")).to_contain_text("restarted")
        expect(page.locator("#why")).to_be_empty()
        expect(page.locator("#total-success")).to_have_text("0")
        assert ask(daemon, "Scores", face()).status_code == 200
        expect(page.locator("#total-success")).to_have_text("1")
        rate = page.inner_text("#tile-rate")
        assert not rate.startswith("\u2212"), f"counted across the restart: {rate}"


def test_what_is_not_ready_says_why(tmp_path, watched):
    watched.expected = [r"Failed to load resource.*503"]
    repository = add(tmp_path / "models", "Good", classifier(), IMAGE)
    add(repository, "Broken", tensors(), "")
    (repository / "Broken" / "1" / "model.onnx").write_bytes(b"no network")
    with Daemon("--model-control-mode", "explicit", "--load-model", "*", repository=repository, backend="rten", wait=False) as daemon:
        while daemon.status() is None:
            time.sleep(0.02)
        page = watched.open(daemon, ready=False)
        expect(page.locator("#state")).to_have_text("Not ready")
        expect(page.locator("#why")).to_contain_text("Broken")
        row = page.get_by_role("row").filter(has_text="Broken")
        expect(row).to_contain_text("Unavailable")
        expect(page.get_by_role("row").filter(has_text="Good")).to_contain_text("Ready")
        index = requests.post(daemon.url("/v2/repository/index"), json={}).json()
        expect(row).to_contain_text(next(e["reason"] for e in index if e["name"] == "Broken")[:40])
        # What cannot answer cannot be chosen.
        assert page.locator("#try-model option").all_inner_texts() == ["Good"]


def test_shares_and_shadows_are_told(tmp_path, watched):
    repository = add(tmp_path / "models", "Scores", classifier(), IMAGE + '[traffic]\n"1" = 75\n"2" = 25\n[shadow]\nversion = "3"\nfraction = 1.0\n')
    for version in ("2", "3"):
        (repository / "Scores" / version).mkdir()
        onnx.save(classifier(), repository / "Scores" / version / "model.onnx")
    with Daemon(repository=repository, backend="rten") as daemon:
        for _ in range(4):
            assert ask(daemon, "Scores", face()).status_code == 200
        page = watched.open(daemon)
        table = page.get_by_role("table", name="Models")
        expect(table.get_by_role("row")).to_have_count(4)
        cells = [[c.inner_text() for c in row.get_by_role("cell").all()] for row in table.get_by_role("row").all()[1:]]
        assert [(row[0], row[6]) for row in cells[:2]] == [("1", "75.0 %"), ("2", "25.0 %")], cells
        expect(table.get_by_role("row").nth(3)).to_contain_text("mean cosine 1.0000")
        assert page.locator("#try-model option").all_inner_texts()[0] == "Scores, as traffic goes"
        info = {"backend": "rten", "precision": "FP32"}
        assert cells[0][2].startswith(info["backend"]) and cells[0][4] == info["precision"], cells[0]


GPU = """
visord_gpu_up{gpu="0",uuid="GPU-0",name="A \\"B\\" 100"} 1
visord_gpu_utilization_ratio{gpu="0",uuid="GPU-0",name="A \\"B\\" 100"} 0.75
visord_gpu_memory_used_bytes{gpu="0",uuid="GPU-0",name="A \\"B\\" 100"} 2147483648
visord_gpu_temperature_celsius{gpu="0",uuid="GPU-0",name="A \\"B\\" 100"} 61
visord_gpu_power_watts{gpu="0",uuid="GPU-0",name="A \\"B\\" 100"} 143.5
visord_gpu_clock_hertz{gpu="0",uuid="GPU-0",name="A \\"B\\" 100",clock="sm"} 1755000000
visord_gpu_throttled{gpu="0",uuid="GPU-0",name="A \\"B\\" 100",reason="sw_power_cap"} 1
visord_gpu_throttled{gpu="0",uuid="GPU-0",name="A \\"B\\" 100",reason="idle"} 0
visord_gpu_up{gpu="1",uuid="GPU-1",name="gone"} 0
visord_gpu_unused 1
"""


def test_gauges_of_gpus_are_shown_where_there_are_any(served, watched):
    page = watched.open(served)
    expect(page.locator("#gpu")).to_be_hidden()

    def with_gpu(route):
        # Only what this machine lacks is made up.
        answer = route.fetch()
        route.fulfill(response=answer, body=re.sub(r"(?m)^visord_gpu_unused .*$", "", answer.text()) + GPU)

    page.route("**/metrics", with_gpu)
    expect(page.locator("#gpu")).to_be_visible()
    expect(page.locator("#gpu-unused")).to_be_visible()
    said = page.inner_text("#gpu-list")
    assert "idle" not in said and "Up" not in said, said
    for words in ("GPU 0, A \"B\" 100", "Throttled, sw power cap", "GPU 1, gone", "does not answer", "Utilization", "75.0 %", "2.00 GiB", "61.0 °C", "144 W", "Clock, sm", "1.76 GHz"):
        assert words in said, f"{words} is not in {said}"
    page.unroute_all(behavior="wait")


def test_the_lines_work_as_they_are_copied(served, watched, tmp_path):
    page = watched.open(served, permissions=["clipboard-read", "clipboard-write"])
    choose(page, MODEL)
    name = "it's a face.jpg"
    (tmp_path / name).write_bytes(face())
    page.set_input_files("#file-a", tmp_path / name)
    expect(page.locator("#commands pre").first).to_contain_text("face.jpg")
    wanted = v1_array(ask(served, MODEL, face()).json()).ravel()
    for protocol in ("Plain HTTP", "Inference protocol v2", "PaddleServing"):
        page.get_by_role("button", name=f"Copy the line for {protocol}").click()
        expect(page.locator("#copied")).to_have_text(f"Copied the line for {protocol}.")
        line = page.evaluate("navigator.clipboard.readText()")
        assert line == page.get_by_role("region", name=protocol).inner_text()
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        answer = json.loads(done.stdout)
        assert answer.get("err_no", 0) == 0, answer
        if "outputs" in answer:
            assert v1_array(answer).ravel() == pytest.approx(wanted, abs=1e-3), protocol
        else:
            values = [float(v) for v in re.findall(r"-?\d\.\d+e[-+]\d+", answer["value"][0])]
            assert values[:3] == pytest.approx(list(wanted[:3]), abs=1e-3), answer
    grpc = page.get_by_role("region", name="gRPC").inner_text()
    assert f'"model_name":"{MODEL}"' in grpc and "127.0.0.1:8001" in grpc


def test_everything_works_by_keyboard(served, watched):
    page = watched.open(served)
    seen, choosers = [], []
    # From the start: the browser is told without waiting for it, and a key might come before that.
    page.on("filechooser", lambda chooser: choosers.append(chooser))

    def tab():
        page.keyboard.press("Tab")
        found = page.evaluate("""() => {
            const e = document.activeElement;
            const shown = e.matches('.theme input') ? e.nextElementSibling : e.closest('.slot') ?? e;
            const style = getComputedStyle(shown);
            const box = shown.getBoundingClientRect();
            return { id: e.id || e.name || e.textContent.trim(), ring: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
                     size: box.width > 0 && box.height > 0 };
        }""")
        seen.append(found)
        return found["id"]

    def go(wanted):
        for _ in range(60):
            if tab() == wanted:
                return
        raise AssertionError(f"{wanted} is not reached: {[s['id'] for s in seen]}")

    assert tab() == "Skip to trying an image"
    go("theme")
    page.keyboard.press("ArrowRight")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    go("live-model")
    page.keyboard.type("ArcF")
    go("try-model")
    page.keyboard.type("ArcF")
    expect(page.locator("#try-model option:checked")).to_have_text(MODEL)
    for slot, file in (("a", "face.jpg"), ("b", "astronaut.jpg")):
        go(f"file-{slot}")
        page.keyboard.press("Enter" if slot == "a" else "Space")
        end = time.monotonic() + PATIENCE_MS / 1000
        while not choosers and time.monotonic() < end:
            page.wait_for_timeout(20)
        assert choosers, f"no choice of files is opened for image {slot}"
        choosers.pop().set_files(IMAGES / file)
        expect(page.locator(f"#name-{slot}")).to_contain_text(file)
    expect(page.locator("#cosine")).to_be_visible()
    go("try-run")
    with page.expect_response("**/infer"):
        page.keyboard.press("Enter")
    go("Copy")
    page.keyboard.press("Enter")
    expect(page.locator("#copied")).not_to_be_empty()
    assert all(s["ring"] and s["size"] for s in seen), [s for s in seen if not (s["ring"] and s["size"])]


ACCESSIBLE = """() => {
    const problems = [];
    const name = (e) => e.getAttribute('aria-label') ?? (e.getAttribute('aria-labelledby') ?? '').split(' ').map((id) => document.getElementById(id)?.textContent ?? '').join('')
        + [...(e.labels ?? [])].map((l) => l.textContent).join('') + (e.matches('button, a, summary') ? e.textContent : '') + (e.alt ?? '');
    for (const e of document.querySelectorAll('button, select, input, a, svg[role=img], table, [role=region], [role=meter], summary'))
        if (!e.closest('[hidden]') && !e.querySelector('caption') && !e.classList.contains('firsts') && !name(e).trim()) problems.push('no name: ' + e.outerHTML.slice(0, 120));
    for (const e of document.querySelectorAll('svg:not([role=img])')) if (!e.closest('[aria-hidden=true]')) problems.push('a picture without a role: ' + e.outerHTML.slice(0, 80));
    const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
    for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) problems.push('twice: #' + id);
    let level = 0;
    for (const e of document.querySelectorAll('h1, h2, h3, h4, h5')) {
        if (e.closest('[hidden]')) continue;
        if (+e.tagName[1] > level + 1) problems.push('a heading is skipped before ' + e.textContent);
        level = +e.tagName[1];
    }
    return problems;
}"""

# Contrast as WCAG 2 defines it, of every text with what is behind it.
CONTRAST = """() => {
    const parse = (c) => (c.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if ((c[3] ?? 1) > 0) return c; } return [255, 255, 255]; };
    const ratio = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
    const bad = [], seen = new Set();
    const check = (e, colour, least, what) => {
        const found = ratio(parse(colour), behind(e));
        if (found < least) bad.push(`${found.toFixed(2)} ${what}`);
        seen.add(what);
    };
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let n = walk.nextNode(); n; n = walk.nextNode()) {
        const e = n.parentElement, box = e.getBoundingClientRect();
        if (!n.textContent.trim() || box.width < 2 || e.closest('option, .offscreen, .skip, :disabled, script, noscript')) continue;
        const style = getComputedStyle(e);
        check(e, e.ownerSVGElement ? style.fill : style.color, 4.5, n.textContent.trim().slice(0, 40));
    }
    for (const e of document.querySelectorAll('.line')) check(e, getComputedStyle(e).stroke, 3, 'line ' + e.getAttribute('class'));
    for (const e of document.querySelectorAll('button, select, .slot, .theme')) if (!e.disabled && !e.matches('.link, .filled')) check(e.parentElement, getComputedStyle(e).borderTopColor, 3, 'border of ' + (e.id || e.className));
    return { bad, seen: seen.size };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_can_be_read(served, watched, scheme):
    page = watched.open(served, color_scheme=scheme, viewport={"width": 1280, "height": 1000})
    watched.expected = [r"Failed to load resource.*400"]
    choose(page, MODEL)
    drop(page, "a", FACE, ("text.bin", "", b"no image"))
    expect(page.locator("#result-error")).to_contain_text("HTTP 400")
    drop(page, "b", ASTRONAUT)
    expect(page.locator("#cosine")).to_be_visible()
    background = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = lambda: sum(int(v) for v in re.findall(r"\d+", background()))
    assert (levels() < 200) == (scheme == "dark"), background()
    for theme in (scheme, {"light": "dark", "dark": "light"}[scheme]):
        if theme != scheme:
            page.get_by_role("radio", name=theme.capitalize()).check(force=True)
        assert (levels() < 200) == (theme == "dark"), f"{theme}: {background()}"
        page.wait_for_timeout(300)
        found = page.evaluate(CONTRAST)
        assert found["seen"] > 60, f"{found['seen']} texts only"
        assert found["bad"] == [], f"{theme}: {found['bad']}"
    # What was chosen is kept, from the first paint on.
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == theme
    assert (levels() < 200) == (theme == "dark")
    page.get_by_role("radio", name="System").check(force=True)
    assert (levels() < 200) == (scheme == "dark")


def test_readers_find_their_way(served, watched):
    page = watched.open(served)
    choose(page, "Animals")
    page.set_input_files("#file-a", [IMAGES / "face.jpg", IMAGES / "astronaut.jpg"])
    expect(page.locator(".classes-of")).to_have_count(2)
    assert page.evaluate(ACCESSIBLE) == []
    for role, name in [
        ("banner", None), ("main", None), ("contentinfo", None), ("heading", "visord"), ("heading", "Models"),
        ("heading", "Live"), ("heading", "Try it"), ("region", "Live"), ("region", "Try it"), ("table", "Models"),
        ("table", "Where the time goes"), ("combobox", "Show"), ("combobox", "Model"), ("combobox", "Read as"),
        ("group", "Theme"), ("button", "Pause"), ("button", "Run again"), ("button", "Remove image A"), ("radio", "Dark"),
        ("columnheader", "Precision"), ("rowheader", MODEL), ("region", "Output scores"),
    ]:
        found = page.get_by_role(role, name=name, exact=True) if name else page.get_by_role(role)
        assert found.count() >= 1, f"no {role} {name}"
    for title in ("Requests a second", "Time of a request", "Batch sizes", "Rows in the queue"):
        images = page.get_by_role("img", name=re.compile(f"^{title}, the last 120 seconds"))
        assert images.count() >= 1, title
    assert page.locator("#state").get_attribute("role") == "status"
    assert page.locator("#why").get_attribute("role") == "alert"
    assert page.locator("html").get_attribute("lang") == "en" and page.title() == "visord"


def test_a_phone_shows_all_of_it(served, watched):
    page = watched.open(served, viewport={"width": 360, "height": 740}, reduced_motion="reduce", has_touch=True)
    page.set_input_files("#file-a", [IMAGES / "face.jpg", IMAGES / "astronaut.jpg"])
    choose(page, MODEL)
    expect(page.locator("#cosine")).to_be_visible()
    wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1], f"{wide[0]} of {wide[1]} pixels"
    outside = page.evaluate("""() => [...document.querySelectorAll('main *')].filter((e) => !e.closest('pre, .offscreen') && !e.matches('.offscreen')
        && e.getBoundingClientRect().right > innerWidth + 1 && getComputedStyle(e).position !== 'absolute').map((e) => e.outerHTML.slice(0, 90))""")
    assert outside == []
    table = page.get_by_role("table", name="Models")
    assert table.get_by_role("row").count() >= 5 and table.get_by_role("rowheader", name=MODEL).count() == 1
    assert page.evaluate("getComputedStyle(document.querySelector('.cosine-fill')).transitionDuration") == "0s"
