"""What loads a proxy: each function runs one load to its end and returns what was counted."""

import re
import subprocess
import tempfile

from process import HERE, WORK, Failed, program, run_quietly


def load_wrk(url, seconds, cpu, script=(), connections=64, threads=1):
    output = run_quietly("wrk", ["taskset", "-c", cpu, program("wrk"), f"-t{threads}", f"-c{connections}", f"-d{seconds}s",
                                 "--timeout", "10s", "-s", HERE / "report.lua", url, "--", *script])
    requests, duration, p50, p99, errors = result("wrk", output)
    return requests, duration / 1e6, p50, p99, errors


def load_h2load(url, seconds, cpu):
    with tempfile.NamedTemporaryFile(dir=WORK, prefix="h2load.") as log:
        output = run_quietly("h2load", ["taskset", "-c", cpu, program("h2load"), "-c10", "-m100", "-t1", "-D", seconds,
                                        f"--log-file={log.name}", url])
        latencies, failures = [], 0
        for line in log:
            _, status, latency = line.split()
            latencies.append(int(latency))
            failures += status != b"200"
    found = re.search(r"finished in ([\d.]+)(m?s)", output)
    if not found or not latencies:
        raise Failed(f"h2load printed no result:\n{output[-2000:]}")
    latencies.sort()
    pick = lambda share: latencies[min(len(latencies) - 1, int(len(latencies) * share))]
    duration = float(found.group(1)) / (1000 if found.group(2) == "ms" else 1)
    return len(latencies), duration, pick(0.5), pick(0.99), failures


def load_heads(tools, port, seconds, cpu, file, rate=0, first=0, connections=64):
    """The requests in `file`, `rate` a second (0: as many as are answered); also the number of the next of them."""
    output = run_quietly("tools load", ["taskset", "-c", cpu, tools, "load", port, connections, seconds, int(rate), first, file])
    requests, nanos, p50, p99, p999, errors, after = result("tools load", output)
    if not requests:
        raise Failed(f"no request of {file.name} was answered well in {seconds} s")
    return {"requests": requests, "rate": requests / nanos * 1e9, "p50": p50, "p99": p99, "p999": p999, "errors": errors,
            "next": after}


def load_transfer(tools, port, seconds, cpu, way, size, connections):
    """Bytes of bodies that were moved, and how long that took."""
    output = run_quietly("tools transfer", ["taskset", "-c", cpu, tools, "transfer", port, connections, seconds, way, size])
    moved, nanos, bodies, errors = result("tools transfer", output)
    if errors or not bodies:
        raise Failed(f"{bodies} bodies of {size} bytes were moved {way}, {errors} were refused")
    return moved, nanos / 1e9


def load_handshakes(port, seconds, cpu, clients=4):
    """Connections that `openssl s_time` made, each with a full handshake and nothing after it."""
    command = ["taskset", "-c", cpu, program("openssl"), "s_time", "-new", "-tls1_3", "-time", seconds, "-connect", f"127.0.0.1:{port}"]
    running = [subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True) for _ in range(clients)]
    count = 0
    for child in running:
        output, _ = child.communicate()
        found = re.search(r"^(\d+) connections in \d+ real seconds", output, re.M)
        if child.returncode or not found:
            raise Failed(f"openssl s_time failed:\n{output[-2000:]}")
        count += int(found.group(1))
    return count


def result(what, output):
    found = re.search(r"^RESULT ([\d ]+)$", output, re.M)
    if not found:
        raise Failed(f"{what} printed no result:\n{output[-2000:]}")
    return list(map(int, found.group(1).split()))
