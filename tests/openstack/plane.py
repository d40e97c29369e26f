"""The machine inside the namespaces: its paths, its daemons, and waiting for them."""
import concurrent.futures
import os
import signal
import socket
import subprocess
import time

ROOT = "/run/plane"
ETC = f"{ROOT}/etc"
LOG = f"{ROOT}/log"
STATE = f"{ROOT}/state"
BIN = f"{ROOT}/venv/bin"
CONTROLLER = "10.66.0.1"
# How many times as long everything that is waited for may take, as on a slow or busy machine.
PATIENCE = max(1.0, float(os.environ.get("PATIENCE") or 1))


class Failed(Exception):
    """Something of the plane didn't come up, or a command failed; says where its log is."""


def run(*command, **options):
    """Runs a command and gives its output; a failure has its errors."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def until(seconds, what, question, step=0.1):
    """Asks until the answer is true, and gives it; an OSError or a Failed is a no."""
    seconds *= PATIENCE
    end = time.monotonic() + seconds
    while True:
        try:
            answer = question()
        except (OSError, Failed):
            answer = None
        if answer:
            return answer
        if time.monotonic() > end:
            raise Failed(f"gave up after {seconds:.0f} s: {what}")
        time.sleep(step)


def listens(port, address=CONTROLLER):
    with socket.create_connection((address, port), 2):
        return True


class Daemons:
    """The processes that run beside the tests, by name. They end with the namespaces, if nobody stops them before."""

    def __init__(self):
        self.processes = {}

    def start(self, name, *command, env=None, cwd="/"):
        """Starts a daemon that isn't running. Its output goes to log/NAME.log."""
        if self.runs(name):
            return self.processes[name]
        with open(f"{LOG}/{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd,
                                                    env={**os.environ, **(env or {})}, start_new_session=True)
        return self.processes[name]

    def runs(self, name):
        process = self.processes.get(name)
        return process is not None and process.poll() is None

    def pid(self, name):
        return self.processes[name].pid

    def stop(self, name, how=signal.SIGTERM, seconds=30):
        """Stops a daemon; kills it and says False when it takes longer than it may."""
        process = self.processes.pop(name, None)
        if process is None or process.poll() is not None:
            return True
        process.send_signal(how)
        try:
            process.wait(seconds * PATIENCE)
            return True
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False

    def wait(self, name, seconds, question, step=0.1):
        """Waits for a daemon to be ready; shows the end of its log when it isn't, or died."""
        def ready():
            if not self.runs(name):
                raise RuntimeError(f"{name} ended with {self.processes[name].returncode}:\n{log_tail(name)}")
            return question()
        try:
            until(seconds, name, ready, step)
        except Failed as failure:
            raise Failed(f"{failure}\n{log_tail(name)}") from None


def log_tail(name, lines=15):
    with open(f"{LOG}/{name}.log", errors="replace") as log:
        return "".join(log.readlines()[-lines:])


class Together:
    """Runs functions beside each other, each after those it needs. Leaving the block waits for all of them."""

    def __enter__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor(32)
        self.futures = []
        return self

    def go(self, function, *after):
        def work():
            for future in after:
                future.result()
            return function()
        self.futures.append(self.pool.submit(work))
        return self.futures[-1]

    def __exit__(self, *_):
        try:
            for future in concurrent.futures.as_completed(self.futures):
                future.result()
        finally:
            self.pool.shutdown(cancel_futures=True)
