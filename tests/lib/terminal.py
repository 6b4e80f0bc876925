#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""terminal.py HOW SPORE CONFIG: runs spore on a terminal of its own and ends it by HOW.

HOW is "guest" (the guest is told to reset) or a signal's name. Checks that the terminal is raw
while the guest runs and is as it was before afterwards, that keys reach the guest, and prints the
wait status.
"""
import os
import pty
import select
import signal
import sys
import termios
import time

how, spore, config = sys.argv[1:]
signal.alarm(30)
main, sub = pty.openpty()
before = termios.tcgetattr(sub)
pid = os.fork()
if pid == 0:
    os.close(main)
    os.login_tty(sub) if hasattr(os, "login_tty") else None
    if not hasattr(os, "login_tty"):
        import fcntl
        os.setsid()
        fcntl.ioctl(sub, termios.TIOCSCTTY, 0)
        for fd in 0, 1, 2:
            os.dup2(sub, fd)
    os.execv(spore, [spore, "--no-api", "--config-file", config])


def read_until(text, seconds=10):
    seen = b""
    end = time.monotonic() + seconds
    while text not in seen:
        if not select.select([main], [], [], max(0, end - time.monotonic()))[0]:
            sys.exit(f"'{text}' never came; there was {seen!r}")
        seen += os.read(main, 4096)


read_until(b"ready")
lflag = termios.tcgetattr(sub)[3]
if lflag & (termios.ICANON | termios.ECHO | termios.ISIG):
    sys.exit("the terminal is not raw while the guest runs")
os.write(main, b"\x03k")  # Ctrl-C is a key for the guest
read_until(b"k")
if how == "guest":
    os.write(main, b"q")
else:
    os.kill(pid, getattr(signal, how))
_, status = os.waitpid(pid, 0)
if termios.tcgetattr(sub) != before:
    sys.exit(f"{how}: the terminal is not as it was")
print(f"status {os.waitstatus_to_exitcode(status)}")
