"""Who is measured: proxies as children, and a contest of several that are loaded in turn."""

import os
import re
import shutil
import statistics
import subprocess
import sys

from process import HERE, WORK, Failed, cpu_seconds, free_port, start, stop, wait_for_port

PROXIES = ["floor", "nginx", "haproxy", "hyper", "sluice", "envoy"]
# Not measured unless asked for, by a variable of the same name in capitals.
EXTRA = ["hyper", "envoy"]
TEMPLATES = {"floor": None, "nginx": "nginx.conf", "haproxy": "haproxy.cfg", "hyper": None, "sluice": "sluice.yaml",
             "envoy": "envoy.yaml"}
LABELS = {"hyper": "hyper alone"}


class Proxy:
    """One proxy under test: how it is started, on which ports, with which file."""

    def __init__(self, label, name, template, values, binary, origins, cpu):
        self.label, self.name, self.template, self.values, self.binary = label, name, template, values, binary
        self.origins, self.cpu = origins, cpu
        self.slug = re.sub(r"\W+", "-", label)
        self.data = WORK / f"{self.slug}.data"

    def start(self):
        self.ports = {"PLAIN": free_port(), "TLS": free_port(), "H2C": free_port(), "ADMIN": free_port()}
        shutil.rmtree(self.data, ignore_errors=True)
        self.child = start(self.slug, self.command(), self.cpu)
        for kind in ("PLAIN", "TLS", "H2C") if self.template == TEMPLATES[self.name] and self.template else ["PLAIN"]:
            wait_for_port(self.child, self.ports[kind])
        return self

    def stop(self):
        stop(self.child)
        (WORK / f"{self.name}.access.log").unlink(missing_ok=True)
        shutil.rmtree(self.data, ignore_errors=True)

    def command(self):
        if self.name == "floor":
            return [self.binary, "floor", self.ports["PLAIN"], self.origins[0]]
        if self.name == "hyper":
            return [self.binary, self.ports["PLAIN"], self.origins[0]]
        text = (HERE / "proxies" / self.template).read_text()
        # Nobody listens where traces would go: unsampled requests send none.
        values = dict(self.ports, ORIGIN=self.origins[0], ORIGIN2=self.origins[1], WORK=WORK, NOBODY=free_port(),
                      DATA=self.data, **{"WORKERS": 1, **self.values})
        if (jwks := WORK / "jwks.json").exists():
            values["JWKS"] = jwks.read_text()
        # One for each: Sluice follows its file.
        file = WORK / f"{self.slug}.{self.template}"
        file.write_text(re.sub(r"@([A-Z0-9]+)@", lambda m: str(values[m.group(1)]), text))
        return {
            "nginx": [self.binary, "-p", WORK, "-c", file],
            "haproxy": [self.binary, "-db", "-f", file],
            "sluice": [self.binary, "run", "-c", file],
            "envoy": [self.binary, "-c", file, "--concurrency", "1", "--log-level", "error",
                      "--base-id", str(os.getpid() % 30000), "--disable-hot-restart"],
        }[self.name]

    def version(self):
        if self.template is None:
            return "copies bytes" if self.name == "floor" else "with a list of connections"
        flag = {"nginx": "-v", "haproxy": "-v"}.get(self.name, "--version")
        done = subprocess.run([str(self.binary), flag], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        found = re.search(r"\b\d+\.\d+\.\d+\b", done.stdout)
        return found.group(0) if found else "?"

    def cost(self, load):
        """CPU seconds that the proxy takes while `load` runs, and what that returns."""
        before = cpu_seconds(self.child.pid)
        outcome = load()
        if self.child.poll() is not None:
            raise Failed(f"{self.label} ended with {self.child.returncode} under load; see {self.child.log}")
        return cpu_seconds(self.child.pid) - before, outcome


class Contest:
    """What all rows share: the programs, the origins, the cores, how long and how often."""

    def __init__(self, names, binaries, tools, origins, cpus, rounds, seconds, idle):
        self.names, self.binaries, self.tools, self.origins = names, binaries, tools, origins
        self.load_cpu, self.proxy_cpu = cpus
        self.rounds, self.seconds, self.idle = rounds, seconds, idle

    def entry(self, label, name, template, values=None, cpu=None):
        return Proxy(label, name, template, values or {}, self.binaries[name], self.origins, self.proxy_cpu if cpu is None else cpu)

    def as_they_come(self, but=()):
        return [self.entry(LABELS.get(name, name), name, TEMPLATES[name]) for name in self.names if name not in but]

    def play(self, row, entries, measure, finish=None):
        """Starts all; one dictionary for each round, with what `measure` says of each label."""
        running = {proxy.label: proxy.start() for proxy in entries}
        labels, played = list(running), []
        for number in range(self.rounds):
            # Each round in another order, so that a slow drift of the machine favours nobody.
            order = labels[number % len(labels):] + labels[:number % len(labels)]
            print(f"{row}: round {number + 1} of {self.rounds}", file=sys.stderr)
            played.append({label: measure(running[label]) for label in order})
        for proxy in running.values():
            if finish:
                finish(proxy, played)
            proxy.stop()
        return played


# === Tables ===

def median(rounds, label, key):
    return statistics.median(r[label][key] for r in rounds)


def beside(rounds, label, other, key):
    """The median of the rounds' ratios, and their range: what drifts does so for both."""
    ratios = [r[label][key] / r[other][key] for r in rounds]
    spread = f" ({min(ratios):.2f}-{max(ratios):.2f})" if len(ratios) > 1 and label != other else ""
    return f"{statistics.median(ratios):.2f}{spread}"


def print_table(title, columns, rows, note=None):
    print(f"\n### {title}\n" + (f"\n{note}\n" if note else ""))
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()
