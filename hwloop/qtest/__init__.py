"""QEMU through its qtest server: its own device models, with no guest and no root."""
