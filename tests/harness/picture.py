# SPDX-License-Identifier: MIT
"""All that an operation which is undone has to leave as it was."""
from harness import images

# What changes by itself.
UNSTEADY = {"Pool": ["FreeBytes"], "Volume": ["AllocatedBytes"], "VM": ["AgentState"]}


def picture(client, qemu):
    """Objects but jobs, files in the pools, nodes in QEMU where there is one: to be compared with another one."""
    objects = {path: interfaces for path, interfaces in client.objects().items() if "/job/" not in path}
    for interfaces in objects.values():
        for interface, names in UNSTEADY.items():
            for name in names:
                interfaces.get(f"org.volchain1.{interface}", {}).pop(name, None)
    files = {pool["Path"]: images.image_files(pool["Path"]) for pool in client.of_kind("pool").values()}
    return objects, files, sorted(qemu.nodes()) if qemu else []
