"""A real browser without a window, spoken to by its own protocol over two pipes: no package is needed for it."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
# A browser reads descriptor 3 and writes descriptor 4.
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
)
PATIENCE = 60  # seconds; a page that was left never answers
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39}


def program():
    """Return the browser that SLIMFER_CHROMIUM names or the path has, or None."""
    return os.environ.get("SLIMFER_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """One page of a browser; `events` are what it told without being asked."""

    def __init__(self, path, profile):
        theirs_in, self.outgoing = os.pipe()
        self.incoming, theirs_out = os.pipe()
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20) for descriptor in (theirs_in, theirs_out)]
        command = [sys.executable, "-c", LAUNCH, *map(str, high), path, *FLAGS, f"--user-data-dir={profile}"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, pass_fds=high, stdout=quiet, stderr=quiet)
        for descriptor in (theirs_in, theirs_out, *high):
            os.close(descriptor)
        self.buffer, self.asked, self.events, self.session = b"", 0, [], {}
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Network", "Runtime"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **parameters):
        """Send a command and return its answer."""
        self.asked += 1
        message = {"id": self.asked, "method": method, "params": parameters, **self.session}
        os.write(self.outgoing, json.dumps(message).encode() + b"\0")
        while (reply := self._read()).get("id") != self.asked:
            self.events.append(reply)
        assert "error" not in reply, f"{method}: {reply}"
        return reply["result"]

    def _read(self):
        while b"\0" not in self.buffer:
            assert select.select([self.incoming], [], [], PATIENCE)[0], f"no answer within {PATIENCE} s"
            part = os.read(self.incoming, 1 << 20)
            assert part, "the browser is gone"
            self.buffer += part
        one, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(one)

    def open(self, path, width=1280, height=900):
        """Open a file and wait until it is loaded."""
        self.size(width, height)
        self.events.clear()
        self.ask("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def size(self, width, height):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, kind="", **features):
        """Emulate a medium and its features; without arguments, none."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.ask("Emulation.setEmulatedMedia", media=kind, features=named)

    def run(self, script):
        """Return the value of a JavaScript expression."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key):
        text = {"Enter": "\r", " ": " "}.get(key, "")
        code = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **code)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **code)

    def close(self):
        self.process.terminate()
        self.process.wait()
        os.close(self.outgoing)
        os.close(self.incoming)
