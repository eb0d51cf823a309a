# SPDX-License-Identifier: MIT
"""What the tests that need a running daemon have in common: a private bus, the daemon, bare QEMUs and real guests.

Nothing here sleeps: starts are awaited by READY=1, a pipe or a socket, ends by the end of the process, jobs by Wait.
"""
