"""The row `handshakes`: how many full TLS handshakes a CPU second is worth."""

import http.client
import ssl

from contest import beside, median, print_table
from load import load_handshakes
from process import Failed

ROWS = {"handshakes": "Full TLS 1.3 handshakes, X25519 and ECDSA P-256, no resumption"}


def run(contest, row):
    entries = contest.as_they_come(but=["floor", "hyper"])
    rounds = contest.play(row, entries, lambda proxy: measure(contest, proxy))
    yardstick = "nginx" if "nginx" in contest.names else entries[0].label
    print_table(ROWS[row], ["proxy", "handshakes per CPU second", f"beside {yardstick}", "CPU us/handshake", "handshakes/s", "core busy"], [
        [label, f"{median(rounds, label, 'per_cpu'):,.0f}", beside(rounds, label, yardstick, "per_cpu"),
         f"{1e6 / median(rounds, label, 'per_cpu'):.0f}", f"{median(rounds, label, 'rate'):,.0f}",
         f"{median(rounds, label, 'busy'):.0%}"] for label in (proxy.label for proxy in entries)])
    return rounds


def measure(contest, proxy):
    check(proxy)
    port, seconds = proxy.ports["TLS"], contest.seconds
    load_handshakes(port, 1, contest.load_cpu)
    used, count = proxy.cost(lambda: load_handshakes(port, seconds, contest.load_cpu))
    if not count:
        raise Failed(f"{proxy.label}: no handshake in {seconds} s; see {proxy.child.log}")
    return {"handshakes": count, "per_cpu": count / used, "rate": count / seconds, "busy": used / seconds}


def check(proxy):
    """One that speaks an older version, or does not answer, would be measured doing something else."""
    client = http.client.HTTPSConnection("127.0.0.1", proxy.ports["TLS"], timeout=10, context=ssl._create_unverified_context())
    client.request("GET", "/")
    version, status = client.sock.version(), client.getresponse().status
    client.close()
    if (version, status) != ("TLSv1.3", 200):
        raise Failed(f"{proxy.label} answered {status} over {version}; see {proxy.child.log}")
