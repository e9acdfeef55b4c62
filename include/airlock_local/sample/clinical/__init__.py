"""A sample clinical delivery of three invented sites, with every trouble, and the expected disposition of each line.

Everything in it is invented; the same code writes the same resources on every machine.
"""

from pathlib import Path

from airlock_local.sample.clinical.delivery import Delivery, SampleUnit
from airlock_local.sample.clinical.exports import add_bundles, add_files_by_type, add_one_file
from airlock_local.sample.clinical.troubles import add_troubles

__all__ = ["SampleUnit", "write_clinical_sample"]


def write_clinical_sample(folder: Path) -> list[SampleUnit]:
    """Write the sample delivery below `folder`.

    Parameters
    ----------
    folder
        Made if it does not exist; other files in it are not changed.

    Returns
    -------
    list of SampleUnit
        Every line, Bundle entry and whole file that a run decides on, in the order of files and lines.

    Raises
    ------
    OSError
        The folder or a file cannot be written.
    """
    delivery = Delivery()
    add_files_by_type(delivery)
    add_one_file(delivery)
    add_bundles(delivery)
    add_troubles(delivery)
    return delivery.write(folder)
