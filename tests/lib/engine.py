"""An engine of a benchmark's own."""
import os
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def busybox_layout():
    """The OCI layout of the small test image, tagged latest."""
    images = subprocess.run([ROOT / "tests/images/build", "busybox"], check=True, stdout=subprocess.PIPE,
                            text=True).stdout.strip()
    return f"{images}/busybox"


def busybox_archive(work):
    """The same as an archive of `docker save`, named busybox:latest."""
    archive = work / "busybox.tar"
    if not archive.exists():
        subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{busybox_layout()}:latest",
                        f"docker-archive:{archive}:busybox:latest"], check=True)
    return archive


class Engine:
    """A hulld whose state lies in a folder of the benchmark's; it has busybox."""

    def __init__(self, work):
        self.socket = work / "run/hull.sock"
        self.host = f"unix://{self.socket}"
        self.env = {**os.environ, "HULL_HOST": self.host}
        with open(work / "hulld.log", "w") as log:
            self.daemon = subprocess.Popen(["hulld", "--root", work / "state", "--exec-root", work / "run",
                                            "-H", self.host], stdout=log, stderr=log)
        try:
            while not self.socket.exists():
                if self.daemon.poll() is not None:
                    raise RuntimeError("hulld did not start: " + (work / "hulld.log").read_text()[-500:])
                time.sleep(0.05)
            self.hull("load", "-q", "-i", str(busybox_archive(work)))
        except BaseException:
            self.stop()
            raise

    def hull(self, *args, **more):
        return subprocess.run(["hull", *args], env=self.env, check=True, stdout=subprocess.PIPE, text=True, **more).stdout

    def stop(self):
        self.daemon.terminate()
        self.daemon.wait(30)
