"""Folders: what makes a new, renamed or removed file outlive a loss of power, which syncing the file alone does not."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Wait until what the folder lists is on disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
