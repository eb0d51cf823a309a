# SPDX-License-Identifier: MIT
"""Series of times, and what may be said about them: medians with their spread, ratios of what was measured in
pairs."""
import os
import statistics
import time


class Series:
    """Seconds, one a round."""

    def __init__(self):
        self.values = []

    def add(self, seconds):
        self.values.append(seconds)

    def __bool__(self):
        return bool(self.values)

    @property
    def median(self):
        return statistics.median(self.values)

    def quantile(self, part):
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

    def text(self):
        """"7.12 (6.80 - 9.31)": milliseconds, median and where 80 of 100 rounds lie."""
        if not self:
            return "-"
        return f"{1e3 * self.median:.2f} ({1e3 * self.quantile(.1):.2f} - {1e3 * self.quantile(.9):.2f})"

    def json(self):
        return {"median_ms": round(1e3 * self.median, 3), "p10_ms": round(1e3 * self.quantile(.1), 3),
                "p90_ms": round(1e3 * self.quantile(.9), 3),
                "rounds_ms": [round(1e3 * value, 3) for value in self.values]}


def ratio(one, other):
    """The median of the ratios of each round's pair: what disturbs the machine for longer than a round
    disturbs both."""
    return statistics.median(a / b for a, b in zip(one.values, other.values, strict=True))


def timed(work):
    """Seconds that it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Machine:
    """What the machine itself does from round to round: a flush of a new file, and a loop of plain
    computing."""

    def __init__(self, directory):
        self.directory, self.flush, self.computing = directory, Series(), Series()

    def look(self):
        self.flush.add(timed(self._flush))
        self.computing.add(timed(lambda: sum(range(200_000))))

    def _flush(self):
        path = os.path.join(self.directory, "flushed")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, bytes(65536))
        os.fsync(fd)
        os.close(fd)
        directory = os.open(self.directory, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        os.unlink(path)

    def text(self):
        return (f"flush of a new file and its directory {self.flush.text()} ms, "
                f"computing {self.computing.text()} ms")

    def noisy(self):
        """Whether rounds differ so much that the medians mean little."""
        return (self.computing.quantile(.9) > 1.5 * self.computing.median
                or self.flush.quantile(.9) > 3 * self.flush.median)
