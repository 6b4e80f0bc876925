#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""build/bench/report.html of what is in build/bench/*.csv: tables and plots (inline SVG), one file, for wide and narrow
screens, by day and by night.

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
STYLE = """
:root { color-scheme:light dark; --fg:#1d2430; --dim:#5b6675; --line:#dfe4ea; --bg:#fff; --code:#f0f3f6; --bad:#b3261e; --link:#1a6fb5 }
@media (prefers-color-scheme:dark) { :root { --fg:#e3e8ef; --dim:#9aa6b5; --line:#333d4a; --bg:#14181e; --code:#20272f;
  --bad:#ef8a84; --link:#6cb3ee } }
body { font:15px/1.5 system-ui,sans-serif; color:var(--fg); background:var(--bg); max-width:60rem; margin:2rem auto; padding:0 1rem }
h1 { margin-bottom:.2rem } h2 { margin:2.2rem 0 .2rem; border-bottom:1px solid var(--line) } h4 { margin:1.1rem 0 .3rem }
a { color:var(--link) } .dim, p.note { color:var(--dim) } p.note { margin:.1rem 0 .5rem; font-size:.9rem }
.wide { overflow-x:auto } table { border-collapse:collapse; font-size:.84rem; width:100% }
.wide td:first-child { min-width:11rem } th { text-align:left; font-weight:normal; color:var(--dim) }
td, th { padding:.2rem .6rem .2rem 0; border-bottom:1px solid var(--line); vertical-align:top }
td.n, th.n { text-align:right; font-variant-numeric:tabular-nums; white-space:nowrap } td.sub { padding-left:1rem } tr.NO td { color:var(--bad) }
code { background:var(--code); padding:.05em .3em }
.plot { font-size:.8rem } .row { display:grid; grid-template-columns:11rem 1fr 5rem; column-gap:.6rem; align-items:center }
.row > :first-child { text-align:right } .row > :last-child { text-align:right; font-variant-numeric:tabular-nums }
svg { width:100%; height:26px; display:block; overflow:visible } svg text { font:11px system-ui,sans-serif; fill:var(--dim) }
svg .grid { stroke:var(--line) } .axis svg { height:18px } svg.curves { height:240px; width:calc(100% - 3.2rem); margin:.4rem .6rem 1.4rem 2.6rem }
.curves svg { height:100% } polyline { fill:none; stroke-width:2; vector-effect:non-scaling-stroke }
.legend { display:flex; flex-wrap:wrap; gap:.1rem 1.2rem; padding-top:.2rem }
.legend i { display:inline-block; width:.7rem; height:.7rem; margin-right:.35rem }
@media (max-width:40rem) { .row { grid-template-columns:1fr auto } .row > :first-child { text-align:left }
  .row svg { grid-column:1/-1; grid-row:2 } svg .odd { display:none } }
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


def kib(value):
    return plain(value) + " KiB" if value else "0"


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


def at(value, top):
    """A place on an axis from 0 to `top`."""
    return f"{min(value, top) / top * 100:.2f}%"


def grid(top):
    return "".join(f'<line class="grid" x1="{at(v, top)}" x2="{at(v, top)}" y1="0" y2="100%"/>' for v in ticks(top))


def row(label, body, value=""):
    """A line of a plot: on a narrow screen its words stand above it."""
    return f"<div class=\"row\"><span>{esc(label)}</span><svg>{body}</svg><span>{esc(value)}</span></div>"


def axis(top, say):
    labels = "".join(f'<text class="{"odd" if nth % 2 else ""}" x="{at(v, top)}" y="12" text-anchor="middle">{say(v)}</text>'
                     for nth, v in enumerate(ticks(top)))
    return f'<div class="row axis"><span></span><svg>{labels}</svg><span></span></div>'


def legend(items):
    return '<div class="legend">' + "".join(
        f'<span><i style="background:{c}"></i>{esc(words)}</span>' for c, words in items) + "</div>"


def plot(title, body):
    return f'<div class="plot" role="img" aria-label="{esc(title)}">{body}</div>'


def spread(title, items, say=us):
    """Each of (label, who, values): least to p99 as a line, the middle half as a box, the median as
    a bar and a number. Scale from 0 to the largest p99."""
    items = [item for item in items if item[2]]
    if not items:
        return ""
    top = max(quantile(v, .99) for _, _, v in items) * 1.02 or 1
    out = []
    for nth, (label, who, values) in enumerate(items):
        c = color(who, nth)
        low, q1, mid, q3, high = (quantile(values, q) for q in (0, .25, .5, .75, .99))
        out.append(row(label, grid(top) +
                       f'<line x1="{at(low, top)}" x2="{at(high, top)}" y1="13" y2="13" stroke="{c}" stroke-width="2"/>'
                       f'<rect x="{at(q1, top)}" y="6" width="{at(q3 - q1, top)}" height="14" fill="{c}" opacity=".45"/>'
                       f'<line x1="{at(mid, top)}" x2="{at(mid, top)}" y1="3" y2="23" stroke="{c}" stroke-width="3"/>', say(mid)))
    return plot(title, "".join(out) + axis(top, say))


def stacked(title, items):
    """Each of (label, [(part, value)...]) as one bar of its parts; a legend below."""
    items = [(label, [(p, v) for p, v in parts if v > 0]) for label, parts in items]
    items = [item for item in items if item[1]]
    if not items:
        return ""
    names = list(dict.fromkeys(p for _, parts in items for p, _ in parts))
    palette = ["#1f8a5f", "#3577a8", "#8267b8", "#c9781c", "#7a8f2b", "#c05a6e", "#97a1ab", "#5aa9c9"]
    top = max(sum(v for _, v in parts) for _, parts in items) * 1.02
    out = []
    for label, parts in items:
        bars, done = [grid(top)], 0
        for part, value in parts:
            c = palette[names.index(part) % len(palette)]
            bars.append(f'<rect x="{at(done, top)}" y="3" width="{at(value, top)}" height="20" fill="{c}">'
                        f"<title>{esc(part)}: {us(value)}</title></rect>")
            done += value
        out.append(row(label, "".join(bars), us(done)))
    return plot(title, "".join(out) + axis(top, us) + legend((palette[nth % len(palette)], part) for nth, part in enumerate(names)))


def distribution(title, items):
    """Cumulative distributions, one line for each of (label, who, values); the time is logarithmic."""
    items = [item for item in items if len(item[2]) > 2]
    if not items:
        return ""
    low, high = min(min(v) for _, _, v in items), max(max(v) for _, _, v in items)

    def x(value):
        return 0 if high <= low else math.log(value / low) / math.log(high / low) * 100
    out = []
    for part in (0, .25, .5, .75, .9, 1):
        y = f"{100 - part * 100:.1f}%"
        out.append(f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
                   f'<text x="-6" y="{y}" dy="4" text-anchor="end">{part:.0%}</text>')
    decade, nth = 10 ** (len(str(int(low))) - 1), 0
    while decade <= high:
        for value in (decade * step for step in ((1, 2, 5) if high > 4 * low else range(1, 10))):
            if low <= value <= high:
                out.append(f'<line class="grid" x1="{x(value):.2f}%" x2="{x(value):.2f}%" y1="0" y2="100%"/>'
                           f'<text class="{"odd" if nth % 2 else ""}" x="{x(value):.2f}%" y="100%" dy="16" '
                           f'text-anchor="middle">{us(value)}</text>')
                nth += 1
        decade *= 10
    lines, words = [], []
    for nth, (label, who, values) in enumerate(items):
        values, c = sorted(values), color(who, nth)
        points = " ".join(f"{x(v):.2f},{100 - (i + 1) / len(values) * 100:.2f}" for i, v in enumerate(values))
        lines.append(f'<polyline points="{points}" stroke="{c}"/>')
        words.append((c, f"{label}: p50 {us(quantile(values, .5))}, p99 {us(quantile(values, .99))}"))
    return plot(title, f'<svg class="curves">{"".join(out)}<svg viewBox="0 0 100 100" preserveAspectRatio="none">'
                f'{"".join(lines)}</svg></svg>{legend(words)}')


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
           [("each clone, proportional", spread("pss", [(label, who, [v / 1024 for v in values]) for label, who, values
                                                             in of(csvs, "fresh", "pss") + of(csvs, "clones", "pss")], kib)),
            ("each clone, private", spread("private", [(label, who, [v / 1024 for v in values]) for label, who, values
                                                            in of(csvs, "fresh", "private") + of(csvs, "clones", "private")], kib)),
            ("idle microVM, private", spread("idle", [(label, who, [v / 1024 for v in values]) for label, who, values
                                                           in of(csvs, "idle", "private")], kib))])
    yield ("Disk, network, vsock", "Linux guests in the test host: time of a fixed amount, and exits of the guest for it.",
           [(words, spread(words, told(csvs, file))) for file, words in
            (("disk", "16,000 random reads of 4 KiB, 32 in flight"), ("net", "TCP from the guest through a tap"),
             ("vsock", "a stream over vsock, beside TCP"))] +
           [(words + ": exits of the guest", spread(words, of(csvs, file, "exits"), plain)) for file, words in
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

    def kind(nth, cell):
        return "sub" if cell.startswith(" ") else "" if nth in (0, 3) else "n"
    head = "".join(f'<th class="{kind(nth, cell)}">{esc(cell)}</th>' for nth, cell in enumerate(lines[0]))
    body = "".join(f'<tr class="{esc(line[-1])}">' + "".join(
        f'<td class="{kind(nth, cell)}">{esc(cell)}</td>' for nth, cell in enumerate(line)) + "</tr>" for line in lines[1:])
    return f"<h2>All figures</h2><div class=\"wide\"><table><tr>{head}</tr>{body}</table></div>"


def write(directory):
    csvs = load(directory)
    out = ["<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>spore: what was measured</title>"
           "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
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
