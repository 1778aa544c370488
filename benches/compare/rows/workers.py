"""The row `workers`: what a request costs when two workers share the load."""

import os

from contest import beside, median, print_table
from load import load_wrk
from rows.steady import saturate

ROWS = {"workers": "HTTP/1.1 keep-alive, 64 connections, two workers beside one"}

# Two for the workers, one for the load and one for the origin: with fewer, one worker waits for the load.
CORES = 4


def run(contest, row):
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < CORES or "sluice" not in contest.names:
        why = f"this takes {CORES} cores, {len(allowed)} are there" if "sluice" in contest.names else "this takes sluice"
        print(f"\n### {ROWS[row]}\n\nnot measured here: {why}", flush=True)
        return {"not measured": why}
    workers = [cpu for cpu in allowed if cpu != contest.load_cpu][:2]
    # The origin has a core of its own already.
    load = ",".join(map(str, [cpu for cpu in allowed if cpu not in (contest.load_cpu, *workers)][:2]))
    entries = [contest.entry("one worker", "sluice", "sluice.yaml", {"WORKERS": 1}, workers[0]),
               contest.entry("two workers", "sluice", "sluice.yaml", {"WORKERS": 2}, ",".join(map(str, workers)))]
    threads = len(load.split(","))
    rounds = contest.play(row, entries, lambda proxy: saturate(contest, proxy, lambda seconds: load_wrk(
        f"http://127.0.0.1:{proxy.ports['PLAIN']}/", seconds, load, threads=threads)))
    labels = [proxy.label for proxy in entries]
    print_table(ROWS[row], ["sluice", "CPU us/request", "beside one worker", "requests/s", "p99 ms", "cores busy"], [
        [label, f"{median(rounds, label, 'cpu_us'):.1f}", beside(rounds, label, "one worker", "cpu_us"),
         f"{median(rounds, label, 'rate'):,.0f}", f"{median(rounds, label, 'p99') / 1000:.2f}",
         f"{median(rounds, label, 'busy'):.0%}"] for label in labels])
    return rounds
