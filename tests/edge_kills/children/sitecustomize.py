"""Python imports this at its start where this folder is on PYTHONPATH: it counts the calls of the edge's processes."""

import os

if "EDGE_CALLS" in os.environ:
    from tests.edge_kills.calls import install

    install(os.environ["EDGE_CALLS"])
