"""Rows of small requests at saturation: CPU time per request beside the floor."""

import base64
import http.client
import json
import statistics
import subprocess
import time

from contest import beside, median, print_table
from load import load_h2load, load_wrk
from process import WORK, Failed, run_quietly

# name: (what the table says, load program, the port it goes to)
ROWS = {
    "h1": ("HTTP/1.1 keep-alive, 64 connections", "wrk", "PLAIN"),
    "tls": ("TLS 1.3 keep-alive, 64 connections", "wrk", "TLS"),
    "h2": ("HTTP/2 cleartext, 10 connections x 100 streams", "h2load", "H2C"),
    "full": ("HTTP/1.1 keep-alive, 64 connections, all policies", "wrk", "PLAIN"),
    "traced": ("HTTP/1.1 keep-alive, 64 connections, tracing with `sample: 0%` beside none", "wrk", "PLAIN"),
    "publish-64": ("HTTP/1.1 keep-alive, 64 connections, POST of 110 bytes, `publish`", "wrk", "PLAIN"),
    "publish-256": ("HTTP/1.1 keep-alive, 256 connections, POST of 110 bytes, `publish`", "wrk", "PLAIN"),
}

# One route, and what it publishes.
EVENT = "topic: orders, type: order.created"
PUBLISH = {
    "sluice, no publish": "",
    "sluice, async": f"publish: {{ {EVENT}, ack: async }}",
    "sluice, durable, no intent": f"publish: {{ {EVENT}, intent: false }}",
    "sluice, durable": f"publish: {{ {EVENT} }}",
}
BODY = '{"id":"7d9f2c1e-4b7a-4f0e-9a51-2f6f0d9b8c3a","sku":"A-1042-041","quantity":3,"price":"19.90","currency":"EUR"}'

# Who runs in a row where it is not each proxy as it comes: what the table says, the proxy, its template, and what
# is put into that.
CONTESTS = {
    "full": [("floor", "floor", None), ("nginx, bare", "nginx", "nginx.conf"), ("sluice", "sluice", "sluice.full.yaml"),
             ("envoy", "envoy", "envoy.full.yaml")],
    "traced": [("floor", "floor", None), ("sluice", "sluice", "sluice.yaml"),
               ("sluice, traced", "sluice", "sluice.traced.yaml")],
    **dict.fromkeys(["publish-64", "publish-256"], [
        ("floor", "floor", None),
        *((label, "sluice", "sluice.publish.yaml", {"PUBLISH": publish}) for label, publish in PUBLISH.items())]),
}

# The requests of the row `full` carry one of so many tokens, in turn.
TOKENS = 100


def run(contest, row):
    if row == "full":
        make_tokens()
    entries = [contest.entry(*who) for who in CONTESTS.get(row, []) if who[1] in contest.names]
    entries = entries or contest.as_they_come(but=() if row == "h1" else ["hyper"])
    rounds = contest.play(row, entries, lambda proxy: measure(contest, proxy, row), check_published)
    labels = [proxy.label for proxy in entries]
    print_table(ROWS[row][0], ["proxy", "CPU us/request", "ratio to floor", "requests/s", "p50 ms", "p99 ms", "core busy"], [
        [label, f"{median(rounds, label, 'cpu_us'):.1f}", beside(rounds, label, "floor", "cpu_us"),
         f"{median(rounds, label, 'rate'):,.0f}", f"{median(rounds, label, 'p50') / 1000:.2f}",
         f"{median(rounds, label, 'p99') / 1000:.2f}", f"{median(rounds, label, 'busy'):.0%}"] for label in labels])
    if row.startswith("publish-"):
        print_publishing(rounds, labels)
    return rounds


def measure(contest, proxy, row):
    _, load, port = ROWS[row]
    if proxy.name == "floor":
        # The yardstick is always plain HTTP/1.1: it does not look at bytes.
        load, port = "wrk", "PLAIN"
    scheme = "https" if port == "TLS" else "http"
    url = f"{scheme}://127.0.0.1:{proxy.ports[port]}/"
    more = {}
    if row == "full":
        check_policies(proxy)
        more = {"script": ["tokens", WORK / "tokens.txt"]}
    if row.startswith("publish-"):
        more = {"script": ["post", BODY], "connections": int(row.removeprefix("publish-"))}
    return saturate(contest, proxy, lambda seconds: (load_wrk if load == "wrk" else load_h2load)(url, seconds, contest.load_cpu, **more))


def saturate(contest, proxy, load):
    """What a request costs when there are as many as the load makes, after a second to warm up."""
    load(1)
    used, (requests, duration, p50, p99, errors) = proxy.cost(lambda: load(contest.seconds))
    if not requests:
        raise Failed(f"{proxy.label}: no request was answered in {contest.seconds} s")
    if errors * 1000 > requests:
        raise Failed(f"{proxy.label}: {errors} of {requests} requests failed; see {proxy.child.log}")
    return {"requests": requests, "cpu_us": used / requests * 1e6, "rate": requests / duration, "p50": p50, "p99": p99, "errors": errors,
            "busy": used / duration}


def print_publishing(rounds, labels):
    print("\n| what publishing costs | CPU us/request more | p50 ms more | p99 ms more |\n|---|---|---|---|")
    for one, other in [*((name, "sluice, no publish") for name in labels[2:]),
                       ("sluice, durable", "sluice, durable, no intent")]:
        # Of the same round: what drifts does so for both.
        more = lambda key: [r[one][key] - r[other][key] for r in rounds]
        cpu = more("cpu_us")
        spread = f" ({min(cpu):+.1f} to {max(cpu):+.1f})" if len(cpu) > 1 else ""
        print(f"| {one} beside {other} | {statistics.median(cpu):+.1f}{spread} "
              f"| {statistics.median(more('p50')) / 1000:+.2f} | {statistics.median(more('p99')) / 1000:+.2f} |", flush=True)


# === Checks ===

def check_policies(proxy):
    """A proxy that lets everybody in would be measured doing nothing."""
    if proxy.name not in ("sluice", "envoy"):
        return
    good = (WORK / "tokens.txt").read_text().split()[0]
    bad = good[:-40] + good[-30:-20] + good[-40:-30] + good[-20:]
    for token, wanted in ((None, 401), (bad, 401), (good, 200)):
        client = http.client.HTTPConnection("127.0.0.1", proxy.ports["PLAIN"], timeout=10)
        client.request("GET", "/", headers={"authorization": f"Bearer {token}"} if token else {})
        if (status := client.getresponse().status) != wanted:
            what = "no token" if token is None else "a good token" if token == good else "a bad signature"
            raise Failed(f"{proxy.label} answered {status} to {what}, not {wanted}; see {proxy.child.log}")
        client.close()


def check_published(proxy, rounds):
    """One that publishes nothing, or more than it was asked to, would be measured doing something else."""
    if "PUBLISH" not in proxy.values:
        return
    count = sum(r[proxy.label]["requests"] for r in rounds)
    client = http.client.HTTPConnection("127.0.0.1", proxy.ports["ADMIN"], timeout=10)
    client.request("GET", "/v1/topics/orders")
    events = json.load(client.getresponse())["events"]
    client.close()
    # Requests that the warm-up or the end of a round cut off have their events too.
    least, most = (count, None) if proxy.values["PUBLISH"] else (0, 0)
    if events < least or most is not None and events > most:
        raise Failed(f"{proxy.label} has {events} events of {count} requests; see {proxy.child.log}")


# === Preparation ===

def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def make_tokens():
    """An RSA key, its JWKS, and tokens it has signed: `token.key`, `jwks.json`, `tokens.txt`."""
    key = WORK / "token.key"
    run_quietly("openssl", ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key])
    modulus = run_quietly("openssl", ["openssl", "rsa", "-in", key, "-noout", "-modulus"]).strip().partition("=")[2]
    jwk = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "bench", "e": "AQAB", "n": base64url(bytes.fromhex(modulus))}
    (WORK / "jwks.json").write_text(json.dumps({"keys": [jwk]}))
    head = base64url(json.dumps({"alg": "RS256", "typ": "JWT", "kid": "bench"}).encode())
    now, tokens = int(time.time()), []
    for number in range(TOKENS):
        claims = {"iss": "https://bench.example", "aud": "bench", "sub": f"user-{number:03}", "iat": now, "exp": now + 86400}
        text = f"{head}.{base64url(json.dumps(claims).encode())}"
        signed = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key], input=text.encode(), stdout=subprocess.PIPE, check=True)
        tokens.append(f"{text}.{base64url(signed.stdout)}")
    (WORK / "tokens.txt").write_text("\n".join(tokens) + "\n")
