# SPDX-License-Identifier: MIT
"""The seeds of random tests, as the ways to run them: none is left out. VOLCHAIN_SEEDS=100-300 names others, 7 one."""
import os

import pytest


def seeds(few, all_of_them):
    """A range as text, of ./check and of ./check all, where nobody names others."""
    usual = all_of_them if os.environ.get("VOLCHAIN_ALL") else few
    first, _, last = os.environ.get("VOLCHAIN_SEEDS", usual).partition("-")
    return [pytest.param(seed, marks=pytest.mark.every) for seed in range(int(first), int(last or first) + 1)]
