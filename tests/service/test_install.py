# SPDX-License-Identifier: MIT
"""What `meson install` puts where, for the usual prefixes: as meson itself plans it, nothing is built for it."""
import glob
import json
import os
import re
import subprocess

import pytest

SOURCE = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
INTERFACES = [os.path.basename(path) for path in glob.glob(f"{SOURCE}/daemon/interfaces/*.xml")]


def meson(*argv, check=True):
    result = subprocess.run(["meson", *argv], capture_output=True, text=True, timeout=300)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture
def set_up(tmp_path):
    """set_up(options...): (paths that would be installed, the directory)."""
    def run(*options):
        directory = str(tmp_path / "build")
        meson("setup", directory, SOURCE, "-Dtests=false", *options)
        planned = json.loads(meson("introspect", "--installed", directory).stdout)
        return set(planned.values()), directory
    return run


def service_files(prefix, sysconfdir, units):
    return {
        f"{prefix}/libexec/volchain/volchaind", f"{prefix}/bin/volchainctl",
        f"{units}/volchain.service",
        f"{prefix}/lib/sysusers.d/volchain.conf", f"{prefix}/lib/tmpfiles.d/volchain.conf",
        f"{prefix}/share/dbus-1/system-services/org.volchain1.service",
        f"{prefix}/share/dbus-1/system.d/org.volchain1.conf",
        f"{prefix}/share/polkit-1/actions/org.volchain1.policy",
        f"{prefix}/share/polkit-1/rules.d/50-volchain.rules",
        f"{sysconfdir}/volchain/volchain.toml",
        *(f"{prefix}/share/dbus-1/interfaces/{name}" for name in INTERFACES),
    }


def unit(directory):
    with open(f"{directory}/systemd/volchain.service") as f:
        return f.read()


def option(directory, name):
    options = json.loads(meson("introspect", "--buildoptions", directory).stdout)
    return next(o["value"] for o in options if o["name"] == name)


def test_packaged(set_up):
    planned, directory = set_up("--prefix=/usr", "--sysconfdir=/etc", "--buildtype=release")
    # Where pkg-config says: /lib is the place before, /usr/lib since, the two were merged.
    split = "/lib/systemd/system/volchain.service" in planned
    assert service_files("/usr", "/etc", "/lib/systemd/system" if split else "/usr/lib/systemd/system") <= planned
    assert len(INTERFACES) > 5
    text = unit(directory)
    assert "ExecStart=/usr/libexec/volchain/volchaind\n" in text
    assert not re.search(r"@\w+@", text)
    assert "\nConfigurationDirectory=volchain\n" in text
    assert option(directory, "failpoints") is False


def test_local(set_up):
    planned, directory = set_up("--prefix=/usr/local")
    assert service_files("/usr/local", "/usr/local/etc", "/usr/local/lib/systemd/system") <= planned
    assert "ExecStart=/usr/local/libexec/volchain/volchaind\n" in unit(directory)
    # systemd would look for it in /etc.
    assert "\nEnvironment=CONFIGURATION_DIRECTORY=/usr/local/etc/volchain\n" in unit(directory)
    assert "\nConfigurationDirectory=" not in unit(directory)


def test_places_can_be_named(set_up):
    planned, _ = set_up("--prefix=/opt/volchain", "-Dsystemd-unit-dir=/etc/systemd/system",
                        "-Ddbus-policy-dir=/etc/dbus-1/system.d", "-Dpolkit-dir=/usr/share/polkit-1")
    assert {"/etc/systemd/system/volchain.service", "/etc/dbus-1/system.d/org.volchain1.conf",
            "/usr/share/polkit-1/actions/org.volchain1.policy",
            "/usr/share/polkit-1/rules.d/50-volchain.rules"} <= planned


def test_release_has_no_failpoints(tmp_path):
    result = meson("setup", str(tmp_path / "build"), SOURCE, "--buildtype=release", "-Dfailpoints=true",
                   check=False)
    assert result.returncode != 0 and "a release has no failpoints" in result.stdout + result.stderr
