"""Children that are measured, and the programs they need: what `run` and `queue` share."""

import glob
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "compare"
TICKS = os.sysconf("SC_CLK_TCK")

PACKAGES = {"nginx": "nginx", "haproxy": "haproxy", "wrk": "wrk", "h2load": "nghttp2-client", "openssl": "openssl",
            "taskset": "util-linux", "redis-server": "redis-server", "rabbitmq-server": "rabbitmq-server"}


class Failed(Exception):
    """Something a reader can act on; printed without a traceback."""


# === Processes ===

CHILDREN = []


def start(name, command, cpu):
    """Starts a child pinned to `cpu`; it dies with this program."""
    log = open(WORK / f"{name}.log", "wb")
    child = subprocess.Popen(["taskset", "-c", str(cpu), *map(str, command)], cwd=WORK, stdin=subprocess.DEVNULL,
                             stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    child.name, child.log = name, WORK / f"{name}.log"
    CHILDREN.append(child)
    return child


def stop(child):
    if child in CHILDREN:
        CHILDREN.remove(child)
    if "LLVM_PROFILE_FILE" in os.environ:
        # A build that counts (`profile/renew`) writes down what it counted when it ends by itself.
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            raise Failed(f"{child.name} does not end, so what it counted is lost; see {child.log}") from None
    # Its whole family: a script that changes the user leaves the group.
    members = family(child.pid)
    for kill, target in [(os.killpg, child.pid), *((os.kill, member) for member in members)]:
        try:
            kill(target, signal.SIGKILL)
        except ProcessLookupError:
            pass
    child.wait()


def stop_all():
    for child in list(CHILDREN):
        stop(child)


def wait_for_port(child, port, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise Failed(f"{child.name} ended with {child.returncode} before it listened:\n{child.log.read_text()[-2000:]}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise Failed(f"{child.name} does not listen on port {port} after {seconds} s; see {child.log}")


def family(pid):
    """The process and all below it."""
    pids, found = [pid], []
    while pids:
        pid = pids.pop()
        found.append(pid)
        for path in glob.glob(f"/proc/{pid}/task/*/children"):
            try:
                pids += map(int, Path(path).read_text().split())
            except OSError:
                pass
    return found


def cpu_seconds(pid):
    total = 0
    for member in family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def memory_bytes(pid):
    """PSS: shared pages are split between the processes that share them."""
    total = 0
    for member in family(pid):
        text = Path(f"/proc/{member}/smaps_rollup").read_text()
        total += int(re.search(r"^Pss:\s+(\d+) kB", text, re.M).group(1)) * 1024
    return total


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# === Preparation ===

def run_quietly(what, command, **options):
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        raise Failed(f"{what} failed ({' '.join(map(str, command))}):\n{done.stdout[-3000:]}")
    return done.stdout


def program(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def install(names):
    missing = [PACKAGES[name] for name in names if program(name) is None]
    if not missing:
        return
    wanted = " ".join(missing)
    if not shutil.which("apt-get"):
        raise Failed(f"missing: {wanted}; install them (there is no apt-get here)")
    if os.geteuid() != 0:
        raise Failed(f"missing: {wanted}; run `sudo apt-get install -y --no-install-recommends {wanted}`")
    print(f"installing {wanted}", file=sys.stderr)
    # Debian starts what it installs; these are only ever started here.
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
    run_quietly("apt-get update", ["apt-get", "update"], env=environment)
    run_quietly("apt-get install", ["apt-get", "install", "-y", "--no-install-recommends", *missing], env=environment)


def build_tools():
    if shutil.which("rustc") is None:
        raise Failed("missing: rustc (https://rustup.rs)")
    output = WORK / "tools"
    sources = list((HERE / "tools").glob("*.rs"))
    if not output.exists() or output.stat().st_mtime < max(s.stat().st_mtime for s in sources):
        run_quietly("building the tools", ["rustc", "-O", "--edition", "2024", HERE / "tools/main.rs", "-o", output])
    return output


def build(what):
    print(f"building {what[-1]} (profile dist: minutes the first time)", file=sys.stderr)
    done = subprocess.run(["cargo", "build", "--profile", "dist", "--locked", *what], cwd=ROOT)
    if done.returncode != 0:
        raise Failed(f"building {what[-1]} failed")
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "dist"


def build_sluice():
    if given := os.environ.get("SLUICE_BIN"):
        return Path(given)
    return build(["--bin", "sluice"]) / "sluice"


def build_hyper():
    """The yardstick of examples/hyper.rs."""
    if given := os.environ.get("HYPER_BIN"):
        return Path(given)
    return build(["--example", "hyper"]) / "examples" / "hyper"


def install_from_pypi(name, package):
    """A program that Debian does not have, or not new enough."""
    folder = ROOT / "target" / name
    if not glob.glob(f"{folder}/bin/{name}*"):
        print(f"installing {package} from PyPI", file=sys.stderr)
        run_quietly("python3 -m venv", [sys.executable, "-m", "venv", folder])
        run_quietly(f"pip install {package}", [folder / "bin/pip", "install", "-q", package])
    for path in [*glob.glob(f"{folder}/bin/{name}*"), *glob.glob(f"{folder}/lib/**/{name}*", recursive=True)]:
        if os.path.isfile(path) and open(path, "rb").read(4) == b"\x7fELF" and os.access(path, os.X_OK):
            return Path(path)
    raise Failed(f"no {name} program under {folder}")


def cores():
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise Failed("this needs two cores: one for the proxy, one for load and origin")
    load = int(os.environ.get("LOAD_CPU", allowed[0]))
    proxy = int(os.environ.get("PROXY_CPU", allowed[1]))
    return load, proxy
