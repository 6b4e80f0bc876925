#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""attach.py STEP... -- COMMAND...: runs a command on a terminal of its own and plays a person.

Steps: wait:TEXT (until it was printed), keys:TEXT (with \\x1d and the like), signal:NAME, raw (the terminal
has to be raw now). At the end the terminal has to be as it was before; prints what was seen and, as the last
line, the exit status. A step may take 30 s, or $ATTACH_SECONDS.
"""
import fcntl
import os
import pty
import select
import signal
import sys
import termios
import time

at = sys.argv.index("--")
steps, command = sys.argv[1:at], sys.argv[at + 1:]
limit = int(os.environ.get("ATTACH_SECONDS", "30"))
signal.alarm(3 * limit)
main, sub = pty.openpty()
before = termios.tcgetattr(sub)
pid = os.fork()
if pid == 0:
    os.close(main)
    os.setsid()
    fcntl.ioctl(sub, termios.TIOCSCTTY, 0)
    for fd in 0, 1, 2:
        os.dup2(sub, fd)
    os.execvp(command[0], command)
seen, fresh = b"", b""


def read_more(seconds):
    global seen, fresh
    if not select.select([main], [], [], seconds)[0]:
        return False
    data = os.read(main, 4096)
    seen += data
    fresh += data
    return True


def die(why):
    os.kill(pid, signal.SIGKILL)
    sys.exit(f"{why}; there was {seen!r}")


for step in steps:
    kind, _, text = step.partition(":")
    data = text.encode().decode("unicode_escape").encode("latin-1")
    end = time.monotonic() + limit
    if kind == "wait":
        while data not in fresh:
            if not read_more(max(0, end - time.monotonic())) and time.monotonic() >= end:
                die(f"'{text}' never came")
        fresh = fresh[fresh.index(data) + len(data):]
    elif kind == "keys":
        os.write(main, data)
    elif kind == "signal":
        os.kill(pid, getattr(signal, text))
    elif kind == "raw":
        if termios.tcgetattr(sub)[3] & (termios.ICANON | termios.ECHO | termios.ISIG):
            die("the terminal is not raw")
    else:
        die(f"step {step}?")
while True:  # the terminal is ours too, so its end cannot be waited for
    read_more(0.02)
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        break
while read_more(0):
    pass
if termios.tcgetattr(sub) != before:
    sys.exit(f"the terminal is not as it was; there was {seen!r}")
sys.stdout.buffer.write(seen.replace(b"\r", b"") + b"\n")
print(f"status {os.waitstatus_to_exitcode(status)}")
