"""The row `p99`: latency at a rate that all can serve, in an open loop."""

import statistics

from contest import print_table
from load import load_heads
from process import WORK, Failed

ROWS = {"p99": "Latency of HTTP/1.1 keep-alive, open loop, 64 connections"}

# Of what the slowest can serve.
SHARE = 0.7


def run(contest, row):
    entries = contest.as_they_come()
    file = WORK / "heads.txt"
    file.write_bytes(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
    load = lambda proxy, seconds, rate=0: load_heads(contest.tools, proxy.ports["PLAIN"], seconds, contest.load_cpu, file, rate)
    saturation = {}
    for proxy in entries:
        proxy.start()
        load(proxy, 1)
        saturation[proxy.label] = load(proxy, contest.seconds)["rate"]
        proxy.stop()
    # One rate for all: a proxy is not to be slower because it could serve more.
    slowest = min((label for label in saturation if label != "floor"), key=saturation.get)
    rate = saturation[slowest] * SHARE

    def measure(proxy):
        load(proxy, 1, rate)
        used, figures = proxy.cost(lambda: load(proxy, contest.seconds, rate))
        if figures["errors"]:
            raise Failed(f"{proxy.label}: {figures['errors']} requests failed; see {proxy.child.log}")
        return {**figures, "busy": used / contest.seconds}

    rounds = contest.play(row, entries, measure)
    others = [name for name in ("nginx", "haproxy") if name in contest.names]
    lines = []
    for label in saturation:
        middle = lambda key: f"{statistics.median(r[label][key] for r in rounds) / 1000:.2f}"
        more = [f"{statistics.median(r[label]['p99'] - r[name]['p99'] for r in rounds) / 1000:+.2f}" for name in others]
        lines.append([label, middle("p50"), middle("p99"), *more, middle("p999"),
                      f"{statistics.median(r[label]['busy'] for r in rounds):.0%}", f"{saturation[label]:,.0f}"])
    print_table(f"{ROWS[row]}, {rate:,.0f} requests/s (70 % of the saturation of {slowest})",
                ["proxy", "p50 ms", "p99 ms", *(f"beside {name}" for name in others), "p99.9 ms", "core busy", "saturated at"], lines)
    return {"saturation": saturation, "rate": rate, "rounds": rounds}
