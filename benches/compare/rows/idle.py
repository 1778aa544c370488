"""The row `idle`: memory of a process just started, and of each connection it holds."""

import socket
import ssl
import sys
import time

from contest import print_table
from load import load_wrk
from process import Failed, memory_bytes

ROWS = {"idle": "Memory at rest (PSS)"}


def run(contest, row):
    figures = {}
    for tls in (False, True):
        for proxy in contest.as_they_come(but=["floor", "hyper"]):
            print(f"{row}: {proxy.label}{' with TLS' if tls else ''}", file=sys.stderr)
            proxy.start()
            time.sleep(1)
            base = memory_bytes(proxy.child.pid)
            figures.setdefault(proxy.label, [base]).append(measure(contest, proxy, tls))
            proxy.stop()
    print_table(f"{ROWS[row]}; {contest.idle:,} connections held, each answered once",
                ["proxy", "MiB just started", "KiB per connection", "with TLS"],
                [[label, f"{base / 2**20:.1f}", f"{plain / 1024:.1f}", f"{tls / 1024:.1f}"]
                 for label, (base, plain, tls) in figures.items()])
    return figures


def measure(contest, proxy, tls):
    """Bytes per held connection, after each has had one answer."""
    load_wrk(f"http://127.0.0.1:{proxy.ports['PLAIN']}/", 1, contest.load_cpu)
    time.sleep(0.5)
    before = memory_bytes(proxy.child.pid)
    context = ssl._create_unverified_context()
    held = []
    try:
        for _ in range(contest.idle):
            client = socket.create_connection(("127.0.0.1", proxy.ports["TLS" if tls else "PLAIN"]), 10)
            held.append(context.wrap_socket(client) if tls else client)
            held[-1].sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                piece = held[-1].recv(4096)
                if not piece:
                    raise Failed(f"{proxy.name} closed connection {len(held)} of {contest.idle}")
                answer += piece
        # Long enough for a proxy to notice that they are idle.
        time.sleep(6)
        return (memory_bytes(proxy.child.pid) - before) / contest.idle
    finally:
        for client in held:
            client.close()
