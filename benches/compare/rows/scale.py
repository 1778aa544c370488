"""The row `scale`: what a request costs in a large configuration, and what a reload of that costs."""

import http.client
import statistics
import threading
import time

from contest import beside, median, print_table
from load import load_heads
from process import WORK, Failed, free_port, start, wait_for_port

ROWS = {"scale": "HTTP/1.1 keep-alive, 64 connections, one route beside many"}

ROUTES, UPSTREAMS, KEYS = 10_000, 1_000, 100_000
# routes, upstreams, limiter keys
SIZES = {
    "1 route, 1 upstream, 1 key": (1, 1, 1),
    f"{ROUTES:,} routes": (ROUTES, 1, 1),
    f"{ROUTES:,} routes, {UPSTREAMS:,} upstreams": (ROUTES, UPSTREAMS, 1),
    f"{ROUTES:,} routes, {UPSTREAMS:,} upstreams, {KEYS:,} keys": (ROUTES, UPSTREAMS, KEYS),
}
# Of its saturation, while it is reloaded: worker and reload have one core between them.
SHARE = 0.3


def run(contest, row):
    if "sluice" not in contest.names:
        print(f"\n### {ROWS[row]}\n\nnot measured here: this takes sluice", flush=True)
        return {"not measured": "this takes sluice"}
    origin = free_port()
    wait_for_port(start("origin-scale", [contest.tools, "origin", origin, UPSTREAMS], contest.load_cpu), origin)
    files = {keys: make_heads(keys) for keys in (1, KEYS)}
    entries = [contest.entry(label, "sluice", "sluice.scale.yaml", configuration(origin, *size)) for label, size in SIZES.items()]
    position = dict.fromkeys(SIZES, 0)

    def load(proxy, seconds, rate=0):
        figures = load_heads(contest.tools, proxy.ports["PLAIN"], seconds, contest.load_cpu, files[SIZES[proxy.label][2]],
                             rate, position[proxy.label] % KEYS)
        if figures["errors"]:
            raise Failed(f"{proxy.label}: {figures['errors']} requests failed; see {proxy.child.log}")
        position[proxy.label] += figures["requests"]
        return figures

    def measure(proxy):
        load(proxy, 1)
        # Until each route, upstream and key has been met.
        while position[proxy.label] < KEYS:
            load(proxy, 2)
        used, figures = proxy.cost(lambda: load(proxy, contest.seconds))
        return {**figures, "cpu_us": used / figures["requests"] * 1e6, "busy": used / contest.seconds}

    reloads = {}
    def finish(proxy, rounds):
        if proxy is entries[-1]:
            check_keys(proxy)
            reloads.update(measure_reloads(contest, proxy, lambda rate: load(proxy, contest.seconds, rate),
                                           median(rounds, proxy.label, "rate") * SHARE))

    rounds = contest.play(row, entries, measure, finish)
    first = entries[0].label
    print_table(ROWS[row], ["sluice", "CPU us/request", "beside the first", "requests/s", "p99 ms", "core busy"], [
        [label, f"{median(rounds, label, 'cpu_us'):.1f}", beside(rounds, label, first, "cpu_us"),
         f"{median(rounds, label, 'rate'):,.0f}", f"{median(rounds, label, 'p99') / 1000:.2f}",
         f"{median(rounds, label, 'busy'):.0%}"] for label in SIZES])
    print_reloads(reloads)
    return {"rounds": rounds, "reloads": reloads}


# === What is measured ===

def configuration(origin, routes, upstreams, keys):
    """Blocks of that many; each upstream has an address of its own, each route its path and its limit, which denies nobody."""
    address = lambda n: f"127.0.{(n + 1) >> 8}.{(n + 1) & 255}:{origin}"
    path = lambda n: f"/tenant-{n}/{{*rest}}" if routes > 1 else "/{*rest}"
    return {
        # Of many keys each is remembered for a minute after a request, and of one there is room for all of them.
        "RATE": "1/m, burst: 100000" if keys > 1 else "1000000/s, burst: 1000000",
        "UPSTREAMS": "\n".join(f'  service-{n}: {{ endpoints: ["{address(n)}"], pool: {{ max_idle: 1024 }}, max_in_flight: 4096 }}'
                               for n in range(upstreams)),
        "ROUTES": "\n".join(f'  - {{ name: tenant-{n}, match: {{ path: "{path(n)}" }}, upstream: service-{n % upstreams}, '
                            f"rate_limit: [per-client], max_in_flight: 4096 }}" for n in range(routes)),
    }


def make_heads(keys):
    """The same requests for every size, but for the number of clients that they come from."""
    file = WORK / f"heads-{keys}.txt"
    # Neighbours differ in route and upstream.
    order = ((n * 7919) % KEYS for n in range(KEYS))
    file.write_text("".join(f"GET /tenant-{n % ROUTES}/orders/7 HTTP/1.1\r\nhost: localhost\r\nx-client: {n % keys:06}\r\n\r\n" for n in order),
                    newline="")
    return file


def check_keys(proxy):
    """A limiter that has forgotten most of its keys would be measured with fewer."""
    text = ask(proxy, "GET", "/metrics")
    found = [line for line in text.splitlines() if line.startswith("sluice_rate_limit_keys")]
    if len(found) != 1 or float(found[0].split()[-1]) < KEYS:
        raise Failed(f"{proxy.label} has not {KEYS} keys: {found}; see {proxy.child.log}")


# === Reloads ===

def measure_reloads(contest, proxy, load, rate):
    """Seconds of a reload at rest and under load, and latency under the same load without and with them."""
    at_rest, under_load, rounds = [reload(proxy) for _ in range(contest.rounds)], [], []
    for _ in range(contest.rounds):
        quiet = load(rate)
        over = threading.Event()
        def one_after_another():
            while not over.is_set():
                under_load.append(reload(proxy))
        thread = threading.Thread(target=one_after_another, daemon=True)
        thread.start()
        busy = load(rate)
        over.set()
        thread.join()
        rounds.append({"without": quiet, "with": busy})
    return {"rate": rate, "at rest": at_rest, "under load": under_load, "rounds": rounds}


def reload(proxy):
    began = time.monotonic()
    ask(proxy, "POST", "/v1/reload")
    return time.monotonic() - began


def ask(proxy, method, path):
    client = http.client.HTTPConnection("127.0.0.1", proxy.ports["ADMIN"], timeout=60)
    client.request(method, path, headers={"content-type": "application/json"})
    answer = client.getresponse()
    text = answer.read().decode()
    client.close()
    if answer.status != 200:
        raise Failed(f"{proxy.label} answered {answer.status} to {method} {path}: {text[:500]}")
    return text


def print_reloads(reloads):
    rounds = reloads["rounds"]
    print_table("Reload of the last of them, one after another, on the worker's own core",
                ["", "reload s", "longest s", "p50 ms", "p99 ms", "p99.9 ms"],
                [["at rest", *seconds(reloads["at rest"]), "", "", ""],
                 [f"{reloads['rate']:,.0f} requests/s, no reload", "", "", *latency(rounds, "without")],
                 [f"the same, {len(reloads['under load'])} reloads", *seconds(reloads["under load"]), *latency(rounds, "with")]])


def seconds(all_of_them):
    return [f"{statistics.median(all_of_them):.2f}", f"{max(all_of_them):.2f}"]


def latency(rounds, label):
    return [f"{median(rounds, label, key) / 1000:.2f}" for key in ("p50", "p99", "p999")]
