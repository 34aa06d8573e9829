"""Files that the rows of a data set name instead of holding an image: they must belong to the data set."""

from pathlib import Path
from typing import Any

from ssl_zoo.data.errors import DataError


__all__ = ["check_image_place"]


def check_image_place(value: Any, data: str) -> None:
    """Refuse a row of a data set that names a file or an address outside the data set.

    A row may hold the bytes of an image, or only name a file: a table from the Hub could name any file of this server.

    Args:
        value (`dict`, `bytes` or `None`): Undecoded image, as `datasets.Image(decode=False)` gives it.
        data (`str`): The data set, as `check_data_name` returned it.

    Raises:
        DataError: The row names a file outside the data set.
    """
    path = value.get("path") if isinstance(value, dict) and value.get("bytes") is None else None
    if path is None:
        return
    outermost = str(path).rpartition("::")[2]  # zip://picture.png::hf://datasets/org/name@main/pictures.zip
    is_inside = outermost.startswith((f"hf://datasets/{data}@", f"hf://datasets/{data}/")) and ".." not in outermost
    if not is_inside:
        folder = Path(data)
        is_inside = (
            folder.is_absolute()
            and "://" not in outermost
            and Path(outermost).resolve().is_relative_to(folder.resolve())
        )
    if not is_inside:
        raise DataError(f"A row of {data!r} names a file outside the data set, so the set isn't opened")
