#!/usr/bin/python3
"""The emulated test host ("L1"): how QEMU is started, and how its template is made and resumed.

    l1.py save TEMPLATE    boot it and save it in the directory TEMPLATE

A template is the memory of the booted host in a sparse file, "memory", and the state of its devices
in another, "state". Each run maps the memory privately, so that any number share it.
"""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build" / "testhost"

# Without ERMS the kernel copies by words: QEMU emulates rep movsb byte by byte. Tests give guests
# more memory than this, but touch little of it. 2800 MiB is what q35 places below 4 GiB as a whole.
CPU = "EPYC,+svm,-erms"
SMP = 2
MEMORY_MIB = 2800
KERNEL_ARGS = ("console=ttyS0 quiet mitigations=off reboot=t panic=-1 tsc=reliable"
               " clocksource=tsc no_timer_check")
READY = b"testhost: ready to be saved"
BOOT_SECONDS = 180
QMP_SECONDS = 60

# Virtio-serial ports by their numbers; see host-session.
PORTS = {"control": 1, "stdout": 2, "stderr": 3, "stdin": 4}


class Failure(Exception):
    """The test host itself failed, not what runs in it."""


class Qmp:
    def __init__(self, sock):
        sock.settimeout(QMP_SECONDS)
        self.file = sock.makefile("rw")
        self.answer("QMP")
        self("qmp_capabilities")

    def read(self):
        try:
            line = self.file.readline()
        except TimeoutError:
            raise Failure(f"QEMU did not answer in {QMP_SECONDS} s") from None
        except ConnectionError:
            line = ""
        if not line:
            raise Failure("QEMU ended by itself")
        return json.loads(line)

    def answer(self, key):
        while True:
            message = self.read()
            if key in message:
                return message[key]
            if "error" in message:
                raise Failure("QEMU: " + message["error"]["desc"])

    def __call__(self, command, **arguments):
        try:
            self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            self.file.flush()
        except BrokenPipeError:
            raise Failure("QEMU ended by itself") from None
        return self.answer("return")

    def ignore_shared(self):
        """Memory stays in its file: neither saved nor loaded."""
        self("migrate-set-capabilities",
             capabilities=[{"capability": "x-ignore-shared", "state": True}])


class Host:
    """A QEMU process. Its channels are sockets in .channel by name: "qmp", "wake" (a serial port
    that wakes a resumed host) and those of PORTS."""

    def __init__(self, template, logs, out, resume):
        """logs and out: directories, for console.log and qemu.log and for the command's results.
        resume: continue the template; otherwise boot, with its memory file to be written."""
        self.template = template
        self.console = logs / "console.log"
        self.channel = {}
        inherited = []
        chardevs = []
        for name in ["qmp", "wake", *PORTS]:
            self.channel[name], theirs = socket.socketpair()
            inherited.append(theirs)
            chardevs += ["-chardev", f"socket,id={name},fd={theirs.fileno()}"]
        ports = []
        for name, number in PORTS.items():
            ports += ["-device", f"virtserialport,chardev={name},nr={number}"]
        pinned = []
        if "SPORE_TESTHOST_PINNED" in os.environ:  # docs/testhost.md, "Triple faults"
            pinned = ["taskset", "-c", str(max(os.sched_getaffinity(0)))]
        command = [
            *pinned,
            # A QEMU must not outlive us, however we end.
            "setpriv", "--pdeathsig", "KILL", "--", str(HERE / "qemu"),
            "-machine", "q35,memory-backend=ram", "-accel", "tcg,thread=multi",
            "-cpu", CPU, "-smp", str(SMP), "-m", str(MEMORY_MIB),
            "-object", f"memory-backend-file,id=ram,size={MEMORY_MIB}M,mem-path={template}/memory,"
                       f"share={'off' if resume else 'on'}",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", str(BUILD / "vmlinux"), "-initrd", str(BUILD / "initrd"),
            "-append", KERNEL_ARGS,
            *chardevs, "-mon", "chardev=qmp,mode=control",
            "-serial", f"file:{self.console}", "-serial", "chardev:wake",
            "-device", "virtio-serial-pci", *ports,
            "-fsdev", "local,id=machine,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=machine,mount_tag=machine",
            "-fsdev", f"local,id=out,path={out},security_model=none,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=out,mount_tag=out",
        ]
        if resume:
            command += ["-incoming", "defer"]
        with open(logs / "qemu.log", "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=[theirs.fileno() for theirs in inherited])
        for theirs in inherited:
            theirs.close()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def save(self):
        deadline = time.monotonic() + BOOT_SECONDS
        while not self.console.exists() or READY not in self.console.read_bytes():
            if self.process.poll() is not None:
                raise Failure("QEMU ended while the host booted")
            if time.monotonic() > deadline:
                raise Failure(f"the host did not boot in {BOOT_SECONDS} s")
            time.sleep(0.1)
        time.sleep(1)  # what the boot left to kernel threads
        qmp = Qmp(self.channel["qmp"])
        qmp("stop")
        qmp.ignore_shared()
        qmp("migrate", uri=f"file:{self.template}/state")
        while (status := qmp("query-migrate"))["status"] != "completed":
            if status["status"] == "failed":
                raise Failure("saving: " + status.get("error-desc", "failed"))
            time.sleep(0.02)
        qmp("quit")
        self.process.wait()

    def resume(self):
        qmp = Qmp(self.channel["qmp"])
        qmp.ignore_shared()
        qmp("migrate-incoming", uri=f"file:{self.template}/state")
        while qmp("query-status")["status"] == "inmigrate":
            time.sleep(0.005)
        qmp("cont")
        self.channel["wake"].sendall(b"now %d\n" % time.time())


def end_on_signals():
    """Signals become exceptions, so that every finally clause runs."""
    def end(number, _frame):
        raise SystemExit(128 + number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def save(template):
    host = Host(template, logs=template, out=BUILD, resume=False)
    try:
        host.save()
    finally:
        host.kill()


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "save":
        sys.exit(__doc__)
    end_on_signals()
    try:
        save(pathlib.Path(sys.argv[2]).resolve())
    except Failure as failure:
        sys.exit(f"testhost: {failure} (logs: {sys.argv[2]}/*.log)")
