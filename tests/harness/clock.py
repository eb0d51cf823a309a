# SPDX-License-Identifier: MIT
"""The daemon's clock, which a test moves: the file `clock` beside its failpoints (lib/base/timestamp.cpp)."""
import datetime
import os
import time


class Clock:
    def __init__(self, daemon):
        self.path = os.path.join(daemon.failpoints, "clock")
        self.ahead = 0

    def now(self):
        """Seconds since the epoch, as the daemon sees them."""
        return time.time() + self.ahead

    def set(self, moment):
        """The daemon's clock shows this from now on: seconds since the epoch, or an aware datetime."""
        if isinstance(moment, datetime.datetime):
            moment = moment.timestamp()
        self.ahead = moment - time.time()
        with open(self.path + ".new", "w") as f:
            f.write(str(int(self.ahead * 1e6)))
        os.rename(self.path + ".new", self.path)
