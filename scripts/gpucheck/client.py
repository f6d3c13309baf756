"""Requests over connections that are kept, and load."""

import contextlib
import multiprocessing
import os
import socket
import threading
import time

from .daemon import metric

MODEL = "ArcFace"


def request_of(body, kind):
    head = ("POST /v1/models/{}/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n"
            .format(MODEL, kind, len(body)))
    return head.encode() + body


class Connection:
    """One connection that is kept; `send` gives status and body."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.left = b""

    def send(self, request):
        self.socket.sendall(request)
        data = self.left
        while b"\r\n\r\n" not in data:
            data += self.receive()
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        length = next(int(l.split(":")[1]) for l in lines if l.lower().startswith("content-length:"))
        while len(body) < length:
            body += self.receive()
        self.left = body[length:]
        return int(lines[0].split()[1]), body[:length]

    def receive(self):
        data = self.socket.recv(1 << 16)
        if not data:
            raise OSError("the connection was closed")
        return data


def one_connection(port, request, end, took, wrong):
    try:
        connection = Connection(port)
        while True:
            begin = time.monotonic()
            if begin >= end:
                return
            status, body = connection.send(request)
            took.append(time.monotonic() - begin)
            if status != 200:
                wrong.append("{}: {}".format(status, body[:200].decode(errors="replace")))
    except OSError as error:
        wrong.append(str(error))


def client_process(port, request, connections, end, pipe):
    took, wrong = [], []
    threads = [threading.Thread(target=one_connection, args=(port, request, end, took, wrong)) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send((took, wrong))
    pipe.close()


def load(daemon, request, connections, seconds):
    """Requests a second, latencies and what /metrics says of the time between."""
    fork = multiprocessing.get_context("fork")
    count = max(1, min(connections, (os.cpu_count() or 1) // 2))
    before, cpu_before, begin = daemon.metrics(), daemon.cpu_seconds(), time.monotonic()
    clients = []
    for i in range(count):
        receiver, sender = fork.Pipe(duplex=False)
        share = connections // count + (i < connections % count)
        process = fork.Process(target=client_process, args=(daemon.port, request, share, begin + seconds, sender))
        process.start()
        sender.close()
        clients.append((process, receiver))
    took, wrong = [], []
    for process, receiver in clients:
        if receiver.poll(seconds + 60):
            with contextlib.suppress(EOFError):
                its_took, its_wrong = receiver.recv()
                took += its_took
                wrong += its_wrong
        process.join(5)
        if process.is_alive():
            process.terminate()
    wall, after, cpu_after = time.monotonic() - begin, daemon.metrics(), daemon.cpu_seconds()
    return summary(connections, wall, took, wrong, before, after, cpu_after - cpu_before)


def summary(connections, wall, took, wrong, before, after, cpu_seconds):
    def grown(name, **labels):
        return metric(after, name, **labels) - metric(before, name, **labels)

    took.sort()
    batches, rows = grown("visord_inference_executions_total"), grown("visord_inference_rows_total")
    sizes = {}
    for line in after:
        if line.startswith("visord_inference_batch_size_bucket"):
            sizes[line.split('le="')[1].split('"')[0]] = after[line] - before.get(line, 0)
    return {
        "connections": connections,
        "requests_per_second": round(len(took) / wall, 1),
        "p50_ms": round(quantile(took, 0.5) * 1e3, 3),
        "p99_ms": round(quantile(took, 0.99) * 1e3, 3),
        "requests": len(took),
        "errors": len(wrong),
        "first_error": wrong[0] if wrong else None,
        "mean_batch": round(rows / batches, 2) if batches else None,
        "batches_up_to": sizes,
        "decodes": {d: grown("visord_image_decodes_total", decoder=d) for d in ("hardware", "hybrid", "cpu")},
        "cpu_cores": round(cpu_seconds / wall, 2),
        "compute_share": round(grown("visord_inference_compute_duration_seconds_sum") / wall, 3),
        "compute_ms_per_batch": round(grown("visord_inference_compute_duration_seconds_sum") / batches * 1e3, 4) if batches else None,
        "wall_seconds": round(wall, 3),
        "rows": rows,
    }


def quantile(ordered, q):
    return ordered[int((len(ordered) - 1) * q)] if ordered else 0.0
