"""A receiver on pynetdicom's own AE that stores durably: it flushes each object, renames it, and flushes its folder.

``python -m benchmarks.pynetdicom_scp FOLDER PORT whole|pieces [CA CERTIFICATE KEY]`` serves until it is ended.
``whole`` has pynetdicom keep a data set in memory, its default; ``pieces`` has it write each to a file as it comes.
"""

from __future__ import annotations

import os
import shutil
import ssl
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from pynetdicom import AE, AllStoragePresentationContexts, _config, evt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pynetdicom.events import Event


class Store:
    """Stores objects in a folder.

    Parameters
    ----------
    folder
        The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()
        (folder / "incoming").mkdir(exist_ok=True)

    def take(self, event: Event) -> int:
        """Store an object and return the status of its response."""
        path = self._folder / "incoming" / f"{next(self._numbers)}.dcm"
        if _config.STORE_RECV_CHUNKED_DATASET:
            shutil.move(event.dataset_path, path)
            descriptor = os.open(path, os.O_RDWR)
        else:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, event.encoded_dataset())
        os.fsync(descriptor)
        os.close(descriptor)
        path.rename(self._folder / path.name)
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        return 0


def main(arguments: Sequence[str]) -> None:
    """Serve until stopped."""
    folder, port, how, *files = arguments
    _config.STORE_RECV_CHUNKED_DATASET = how == "pieces"
    tls = None
    if files:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files[0])
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_cert_chain(*files[1:])
    entity = AE("AIRLOCK")
    entity.maximum_pdu_size = 128 * 1024
    entity.supported_contexts = AllStoragePresentationContexts
    handlers = [(evt.EVT_C_STORE, Store(Path(folder)).take)]
    entity.start_server(("127.0.0.1", int(port)), evt_handlers=handlers, ssl_context=tls)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1:])
