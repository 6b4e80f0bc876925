#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""build/bench/report.html of what is in build/bench/*.csv: tables and plots (inline SVG), one file.

tests/bench/run writes it at its end; by hand: tests/bench/report.py [DIRECTORY]. What has no CSV is
not in the report. Rows of every CSV: who,round,figure,value; nanoseconds unless a plot says otherwise.
"""
import collections
import csv
import html
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
COLORS = {"spore": "#1f8a5f", "qemu": "#8267b8", "peer": "#c9781c", "bare": "#97a1ab", "rules": "#5aa9c9",
          "out": "#1f8a5f", "in": "#3fb489", "tcp_out": "#97a1ab", "tcp_in": "#b9c1c8"}
MORE = ["#3577a8", "#c05a6e", "#7a8f2b", "#b0894a", "#5f6b78"]
NAMES = {"qemu": "QEMU microvm", "peer": "PEER", "bare": "the bare cost", "large": "spore, 1 GiB",
         "shell": "spore, warm shell", "primed": "spore, primed shell", "pool": "clones of a pool", "rules": "spore, 100 rules",
         "out": "vsock, guest to host", "in": "vsock, host to guest", "host": "agent on this machine", "guest": "agent in a Linux guest", "claim": "bare KVM calls of a claim",
         "tcp_out": "TCP, guest to host", "tcp_in": "TCP, host to guest"}
WIDTH, LEFT, RIGHT, ROW = 900, 210, 110, 26
STYLE = """
body { font:15px/1.5 system-ui,sans-serif; color:#1d2430; max-width:60rem; margin:2rem auto; padding:0 1rem }
h1 { margin-bottom:.2rem } h2 { margin:2.2rem 0 .2rem; border-bottom:1px solid #dfe4ea }
.dim, p.note { color:#5b6675 } p.note { margin:.1rem 0 .5rem; font-size:.9rem }
table { border-collapse:collapse; font-size:.84rem; width:100% }
th { text-align:left; font-weight:normal; color:#5b6675 }
td, th { padding:.2rem .6rem .2rem 0; border-bottom:1px solid #e6eaee; vertical-align:top }
td.n { text-align:right; font-variant-numeric:tabular-nums; white-space:nowrap } tr.NO td { color:#b3261e }
svg { width:100%; height:auto; display:block } svg text { font:12px system-ui,sans-serif; fill:#1d2430 }
svg .dim { fill:#5b6675 } svg .grid { stroke:#e3e8ec } code { background:#f0f3f6; padding:.05em .3em }
"""


def esc(text):
    return html.escape(str(text), quote=True)


def color(who, nth=0):
    return COLORS.get(who, MORE[nth % len(MORE)])


def name(who):
    return NAMES.get(who, who)


def us(ns):
    """A time, three digits."""
    for unit, size in ("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.0f} ns" if ns else "0"


def plain(value):
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def load(directory):
    """{file: {(who, figure): [values in the order of the rounds]}}"""
    found = {}
    for path in sorted(directory.glob("*.csv")):
        got = collections.defaultdict(list)
        with open(path, encoding="utf-8", newline="") as f:
            for row in list(csv.reader(f))[1:]:
                if len(row) == 4 and re.fullmatch(r"\d+", row[3]):
                    got[row[0], row[2]].append(int(row[3]))
        found[path.stem] = got
    return found


def quantile(values, q):
    values = sorted(values)
    at = q * (len(values) - 1)
    low = int(at)
    return values[low] + (values[min(low + 1, len(values) - 1)] - values[low]) * (at - low)


# --- plots ---

def ticks(top):
    """Round numbers from 0 to `top`."""
    step = 10 ** len(str(int(top))) / 10 if top >= 1 else 0.1
    while top / step > 6:
        step *= 2 if str(step)[0] in "15" else 2.5
    while top / step < 3:
        step /= 2
    out, at = [], 0.0
    while at <= top * 1.0001:
        out.append(at)
        at += step
    return out


def axis(top, height, say):
    out = []
    for at in ticks(top):
        x = LEFT + at / top * (WIDTH - LEFT - RIGHT)
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 20}"/>'
                   f'<text class="dim" x="{x:.1f}" y="{height - 5}" text-anchor="middle">{say(at)}</text>')
    return "".join(out)


def svg(height, body, title):
    return (f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{esc(title)}">'
            f"<title>{esc(title)}</title>{body}</svg>")


def spread(title, items, say=us):
    """Each of (label, who, values): least to p99 as a line, the middle half as a box, the median as
    a bar and a number. Scale from 0 to the largest p99."""
    items = [item for item in items if item[2]]
    if not items:
        return ""
    top = max(quantile(v, .99) for _, _, v in items) * 1.02 or 1
    height = ROW * len(items) + 30

    def x(value):
        return LEFT + min(value, top) / top * (WIDTH - LEFT - RIGHT)
    out = [axis(top, height, say)]
    for nth, (label, who, values) in enumerate(items):
        y, c = 6 + ROW * nth, color(who, nth)
        low, q1, mid, q3, high = (quantile(values, q) for q in (0, .25, .5, .75, .99))
        out.append(f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{esc(label)}</text>'
                   f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y + 10}" y2="{y + 10}" stroke="{c}" stroke-width="2"/>'
                   f'<rect x="{x(q1):.1f}" y="{y + 3}" width="{max(x(q3) - x(q1), 2):.1f}" height="14" fill="{c}" opacity=".45"/>'
                   f'<rect x="{x(mid) - 1.5:.1f}" y="{y}" width="3" height="20" fill="{c}"/>'
                   f'<text x="{WIDTH - 4}" y="{y + 14}" text-anchor="end">{say(mid)}</text>')
    return svg(height, "".join(out), title)


def stacked(title, items):
    """Each of (label, [(part, value)...]) as one bar of its parts; a legend below."""
    items = [(label, [(p, v) for p, v in parts if v > 0]) for label, parts in items]
    items = [item for item in items if item[1]]
    if not items:
        return ""
    names = list(dict.fromkeys(p for _, parts in items for p, _ in parts))
    palette = ["#1f8a5f", "#3577a8", "#8267b8", "#c9781c", "#7a8f2b", "#c05a6e", "#97a1ab", "#5aa9c9"]
    top = max(sum(v for _, v in parts) for _, parts in items) * 1.02
    height = ROW * len(items) + 52
    scale = (WIDTH - LEFT - RIGHT) / top
    out = [axis(top, height - 22, us)]
    for nth, (label, parts) in enumerate(items):
        y, at = 6 + ROW * nth, float(LEFT)
        out.append(f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{esc(label)}</text>')
        for part, value in parts:
            c = palette[names.index(part) % len(palette)]
            out.append(f'<rect x="{at:.1f}" y="{y}" width="{max(value * scale - .6, .6):.1f}" height="19" fill="{c}">'
                       f"<title>{esc(part)}: {us(value)}</title></rect>")
            at += value * scale
        out.append(f'<text x="{WIDTH - 4}" y="{y + 14}" text-anchor="end">{us(sum(v for _, v in parts))}</text>')
    at = LEFT
    for nth, part in enumerate(names):
        out.append(f'<rect x="{at}" y="{height - 14}" width="10" height="10" fill="{palette[nth % len(palette)]}"/>'
                   f'<text x="{at + 14}" y="{height - 5}">{esc(part)}</text>')
        at += 24 + 7 * len(part)
    return svg(height, "".join(out), title)


def distribution(title, items):
    """Cumulative distributions, one line for each of (label, who, values); the time is logarithmic."""
    items = [item for item in items if len(item[2]) > 2]
    if not items:
        return ""
    low, high = min(min(v) for _, _, v in items), max(max(v) for _, _, v in items)
    height, bottom, left = 262 + 18 * ((len(items) + 1) // 2), 236, 50

    def x(value):
        span = (high / low) or 1
        return left + (WIDTH - left - 20) * (0 if span <= 1 else math.log(value / low) / math.log(span))

    def y(part):
        return bottom - part * (bottom - 12)
    out = []
    for part in (0, .25, .5, .75, .9, .99, 1):
        out.append(f'<line class="grid" x1="{left}" x2="{WIDTH - 20}" y1="{y(part):.1f}" y2="{y(part):.1f}"/>')
        if part not in (.99,):
            out.append(f'<text class="dim" x="{left - 6}" y="{y(part) + 4:.1f}" text-anchor="end">{part:.0%}</text>')
    at = 10 ** (len(str(int(low))) - 1)
    while at <= high:
        for step in (1, 2, 5) if high > 4 * low else range(1, 10):
            if low <= at * step <= high:
                out.append(f'<line class="grid" x1="{x(at * step):.1f}" x2="{x(at * step):.1f}" y1="12" y2="{bottom}"/>'
                           f'<text class="dim" x="{x(at * step):.1f}" y="{bottom + 16}" text-anchor="middle">{us(at * step)}</text>')
        at *= 10
    for nth, (label, who, values) in enumerate(items):
        values, c = sorted(values), color(who, nth)
        points = " ".join(f"{x(v):.1f},{y((i + 1) / len(values)):.1f}" for i, v in enumerate(values))
        out.append(f'<polyline points="{points}" fill="none" stroke="{c}" stroke-width="2"/>')
        place, down = left + nth % 2 * 420, bottom + 30 + 18 * (nth // 2)
        out.append(f'<rect x="{place}" y="{down - 9}" width="10" height="10" fill="{c}"/>'
                   f'<text x="{place + 14}" y="{down}">{esc(label)}: p50 {us(quantile(values, .5))}, '
                   f"p99 {us(quantile(values, .99))}</text>")
    return svg(height, "".join(out), title)


# --- the report ---

def of(csvs, file, figure, whos=None):
    """(label, who, values) of everybody who has that figure in that file."""
    got = csvs.get(file, {})
    found = [who for who, f in got if f == figure]
    return [(name(who), who, got[who, figure]) for who in whos or found if got.get((who, figure))]


def phases(csvs, file, steps, whos):
    """(label, [(step, its median)]) of those in `whos`."""
    got = csvs.get(file, {})
    return [(label, [(step, statistics.median(got[who, step])) for step in steps if got.get((who, step))])
            for who, label in whos]


def told(csvs, file, counting=2):
    """Times of whole streams (microseconds in the CSV), without the rounds in which was counted."""
    return [(label, who, [v * 1000 for v in values]) for label, who, values in of(csvs, file, "told")]


def chapters(csvs):
    start = ["memory", "kvm", "devices", "kernel", "vcpus", "run"]
    restore = ["state", "memory", "kvm", "devices", "vcpus", "run"]
    yield ("Start-up", "From exec until the API accepts (beside a static program that only listens), until it "
           "answers, and the CPU time until then. Bar: median; box: middle half; line: least to p99.",
           [("until the API accepts", spread("accept", of(csvs, "ready", "accept"))),
            ("until the API answers, beside QEMU's QMP", spread("answer", of(csvs, "ready", "answer", ["spore", "peer"]) +
                                                               of(csvs, "ready-qemu", "answer", ["qemu"]))),
            ("CPU time", spread("cpu", of(csvs, "ready", "cpu") + of(csvs, "ready-qemu", "cpu", ["qemu"]))),
            ("exec to the first byte of a guest of four instructions", spread("first byte", of(csvs, "whole", "first")))])
    yield ("Boot phases", "InstanceStart by its steps, medians; then Linux to the first line of init, in the test host "
           "where that is emulated.",
           [("InstanceStart", stacked("boot phases", phases(csvs, "start", start, [("spore", "spore")]))),
            ("Linux, initrd", spread("initrd", of(csvs, "boot", "initrd"))),
            ("Linux, ext4 root", spread("root", of(csvs, "boot", "root")))])
    yield ("Restore phases", "PUT /snapshot/load with resume_vm by its steps, medians: a new process, and one with a machine "
           "made ahead.",
           [("", stacked("restore phases", phases(csvs, "restore", restore, [("spore", "128 MiB"), ("large", "1 GiB")]) +
                         phases(csvs, "shell", restore, [("shell", "warm shell"), ("primed", "primed shell")])))])
    yield ("Clone latency", "From the exec of a new process until PUT /snapshot/load is answered, the guest running; many "
           "clones of one snapshot of 128 MiB, one after the other. A claim: the request to a process with a warm machine, or to the pool that has such.",
           [("", distribution("clone latency", of(csvs, "fresh", "clone") + of(csvs, "clones", "claim", ["pool"]) +
                              [("claim of a warm shell", "shell", csvs.get("shell", {}).get(("shell", "request"), [])),
                               ("claim of a primed shell", "primed", csvs.get("shell", {}).get(("primed", "request"), []))]))])
    yield ("Memory per clone", "Proportional set size of each of several clones that run at the same time (pages that they share "
           "are divided among them), and what is private to it; and a whole idle microVM of 128 MiB without "
           "the guest's memory. QEMU's were made one at a time, by -incoming.",
           [("each clone, proportional, KiB", spread("pss", [(label, who, [v / 1024 for v in values]) for label, who, values
                                                             in of(csvs, "fresh", "pss") + of(csvs, "clones", "pss")], plain)),
            ("each clone, private, KiB", spread("private", [(label, who, [v / 1024 for v in values]) for label, who, values
                                                            in of(csvs, "fresh", "private") + of(csvs, "clones", "private")], plain)),
            ("idle microVM, private, KiB", spread("idle", [(label, who, [v / 1024 for v in values]) for label, who, values
                                                           in of(csvs, "idle", "private")], plain))])
    yield ("Disk, network, vsock", "Linux guests in the test host: time of a fixed amount, and exits of the guest for it.",
           [(words, spread(words, told(csvs, file))) for file, words in
            (("disk", "16,000 random reads of 4 KiB, 32 in flight"), ("net", "TCP from the guest through a tap"),
             ("vsock", "a stream over vsock, beside TCP"))] +
           [(words + ": exits", spread(words, of(csvs, file, "exits"), plain)) for file, words in
            (("disk", "disk"), ("net", "network"), ("vsock", "vsock"))])
    yield ("sporectl exec", "/bin/true by the agent of a warm guest: from the exec of sporectl to its end. The agent on this "
           "machine itself shows what is sporectl's and the agent's own, beside a plain fork and exec; a Linux guest runs in the "
           "test host where that is emulated.",
           [("", spread("exec", of(csvs, "exec", "whole")))])


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*: (.*)", info)
    memory = re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text(encoding="utf-8"))
    virtual = re.search(r"\b(vmx|svm)\b", info)
    qemu = TOP / "build/testhost/qemu/usr/bin/qemu-system-x86_64"

    def first(*command):
        try:
            out = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
            return out.stdout.splitlines()[0]
        except (OSError, IndexError):
            return "not there"
    rows = [("processor", f"{model[1] if model else 'unknown'}, {os.cpu_count()} of them"),
            ("hardware virtualization", virtual[1] if virtual else "none: /dev/kvm is paravirtual or absent; Linux guests "
             "run in the test host, which is emulated"),
            ("memory", f"{int(memory[1]) / 1048576:.1f} GiB" if memory else "unknown"),
            ("kernel", " ".join((os.uname().sysname, os.uname().release))),
            ("load", " ".join(f"{load:.1f}" for load in os.getloadavg())),
            ("spore", first(TOP / "build/spore", "--version")), ("QEMU", first(qemu, "--version"))]
    if os.environ.get("PEER"):
        rows.append(("PEER", f"{os.environ['PEER']}: {first(os.environ['PEER'], '--version')}"))
    return rows


def table(path):
    """The table that tests/bench/run prints, kept as table.tsv."""
    if not path.exists():
        return ""
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    head = "".join(f"<th>{esc(cell)}</th>" for cell in lines[0])
    body = "".join(f'<tr class="{esc(line[-1])}">' + "".join(
        f'<td class="{"" if nth in (0, 3) else "n"}">{esc(cell)}</td>' for nth, cell in enumerate(line)) + "</tr>"
        for line in lines[1:])
    return f"<h2>All figures</h2><table><tr>{head}</tr>{body}</table>"


def write(directory):
    csvs = load(directory)
    out = ["<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>spore: what was measured</title>"
           f"<style>{STYLE}</style></head><body><h1>What was measured</h1>"
           f"<p class=\"dim\">{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}. Both machines, this one and the one that "
           "it emulates, are noisy: read who is beside whom, not the times alone. <code>docs/performance.md</code> says what "
           "each part measures.</p><table>"]
    out += [f"<tr><td>{esc(key)}</td><td>{esc(value)}</td></tr>" for key, value in machine()]
    out.append("</table>")
    for title, note, plots in chapters(csvs):
        plots = [(words, plot) for words, plot in plots if plot]
        if not plots:
            out.append(f'<h2>{esc(title)}</h2><p class="note">Not measured in this run.</p>')
            continue
        out.append(f'<h2>{esc(title)}</h2><p class="note">{esc(note)}</p>')
        out += [(f"<h4>{esc(words)}</h4>" if words else "") + plot for words, plot in plots]
    out.append(table(directory / "table.tsv"))
    out.append("<h2>Raw values</h2><p>" + ", ".join(
        f'<a href="{esc(f)}.csv">{esc(f)}.csv</a>' for f in csvs) + ": who,round,figure,value.</p></body></html>\n")
    target = directory / "report.html"
    target.write_text("".join(out), encoding="utf-8")
    return target


if __name__ == "__main__":
    print(write(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else TOP / "build/bench"))
