"""Rows of large bodies, from the origin and to it: CPU time per GiB."""

from contest import beside, median, print_table
from load import load_transfer

# name: (what the table says, way, bytes, connections)
ROWS = {
    "1m-down": ("Download of 1 MiB, 64 connections", "down", 2**20, 64),
    "1m-up": ("Upload of 1 MiB, 64 connections", "up", 2**20, 64),
    "100m-down": ("Download of 100 MiB, 4 connections", "down", 100 * 2**20, 4),
    "100m-up": ("Upload of 100 MiB, 4 connections", "up", 100 * 2**20, 4),
}


def run(contest, row):
    entries = contest.as_they_come()
    labels = [proxy.label for proxy in entries]
    rounds = contest.play(row, entries, lambda proxy: measure(contest, proxy, row))
    yardsticks = [name for name in ("floor", "nginx") if name in labels]
    print_table(ROWS[row][0], ["proxy", "CPU ms/GiB", *(f"beside {name}" for name in yardsticks), "GiB/s", "core busy"], [
        [label, f"{median(rounds, label, 'per_gib') * 1000:.0f}", *(beside(rounds, label, name, "per_gib") for name in yardsticks),
         f"{median(rounds, label, 'rate'):.2f}", f"{median(rounds, label, 'busy'):.0%}"] for label in labels])
    return rounds


def measure(contest, proxy, row):
    _, way, size, connections = ROWS[row]
    load = lambda seconds: load_transfer(contest.tools, proxy.ports["PLAIN"], seconds, contest.load_cpu, way, size, connections)
    load(1)
    used, (moved, took) = proxy.cost(lambda: load(contest.seconds))
    return {"bytes": moved, "per_gib": used / moved * 2**30, "rate": moved / took / 2**30, "busy": used / took}
