"""One training of a run at a time: a lock that names its owner and goes when its process does."""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from pathlib import Path

from lib.errors import OutputError
from lib.paths import writable

__all__ = ["RunLock"]

NOT_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # a file system that knows no locks

logger = logging.getLogger(__name__)


class RunLock:
    """A lock on a file, kept by the system itself (flock) until it is let go or its process ends.

    So a lock that a killed process left is none. The file says who holds it: host, process, since
    when. Where the file system has no locks, training goes on without.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = None

    def take(self) -> str:
        """Take the lock; returns who has it, in a sentence, or nothing.

        Errors: ConfigError for a folder that can't be written to, OutputError for the file itself.
        """
        writable(self.path.parent)
        try:
            while self._file is None:
                file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 (kept until release)
                if refusal := self._locked(file):
                    file.close()
                    return refusal
                if self._still_there(file):
                    self._file = file
                else:  # whoever had it before removed the file meanwhile
                    file.close()
        except OSError as error:
            raise OutputError(f"can't write {self.path}: {error.strerror or error}") from None
        self._file.truncate(0)
        json.dump({"host": socket.gethostname(), "process": os.getpid(),
                   "since": time.strftime("%Y-%m-%d %H:%M:%S")}, self._file)
        self._file.flush()
        return ""

    def release(self) -> None:
        """Let go, and remove the file."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _locked(self, file) -> str:
        """Lock the file, or say who has."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            return (f"{self.path.parent.parent} is being trained already{_owner(file.read())}: "
                    "wait for its end, or stop it and run the same command again: it goes on")
        except OSError as error:
            if error.errno not in NOT_HERE:
                raise
            logger.warning("%s can't be locked (%s): see to it that no other process trains this "
                           "run", self.path, error.strerror)
        return ""

    def _still_there(self, file) -> bool:
        try:
            return os.fstat(file.fileno()).st_ino == self.path.stat().st_ino
        except FileNotFoundError:
            return False


def _owner(content: str) -> str:
    try:
        owner = json.loads(content)
        return f", by process {owner['process']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):  # it is only just writing it
        return ""
