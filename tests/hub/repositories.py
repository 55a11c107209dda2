"""Storage of the tests' Hub: repositories with commits, branches and tags, and the store of large files."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field

# What the Hub keeps as large files, by the .gitattributes of a new repository.
LARGE = (".safetensors", ".bin", ".npz", ".npy", ".pt", ".pth", ".png", ".onnx", ".model", ".parquet")


@dataclass(frozen=True)
class File:
    """A file of a commit."""

    content: bytes
    is_large: bool = False

    @property
    def oid(self) -> str:
        """What git calls it; of a large file the sha256 of its content."""
        if self.is_large:
            return self.sha256
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """A commit: its hash, its message and its files."""

    oid: str
    message: str
    files: dict[str, File]


@dataclass
class Repository:
    """A repository of the Hub.

    Attributes:
        name: `owner/name`.
        private: whether reading takes a token.
        commits: by hash, the oldest first.
        branches, tags: hashes by name.
    """

    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        attributes = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LARGE)
        self.commit("main", "initial commit", {".gitattributes": File(attributes.encode())})

    @property
    def owner(self) -> str:
        return self.name.partition("/")[0]

    def find(self, revision: str) -> Commit | None:
        """Return the commit of a branch, tag or hash, of which the first seven digits suffice."""
        oid = self.branches.get(revision) or self.tags.get(revision)
        if oid is None and len(revision) >= 7:
            oid = next((each for each in self.commits if each.startswith(revision)), None)
        return None if oid is None else self.commits[oid]

    def commit(self, branch: str, message: str, changes: dict[str, File | None]) -> Commit:
        """Add a commit to a branch."""
        parent = self.find(branch)
        files = dict(parent.files) if parent else {}
        for path, file in changes.items():
            if file is not None:
                files[path] = file
            else:
                for gone in [
                    name for name in files if name == path or name.startswith(path.rstrip("/") + "/")
                ]:
                    del files[gone]
        oid = hashlib.sha1(f"{self.name} {branch} {len(self.commits)} {message}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, message, files)
        self.branches[branch] = oid
        return self.commits[oid]


def folders_of(paths: list[str]) -> list[str]:
    """Return every folder that contains one of the files, at any depth."""
    parts = (path.split("/")[:-1] for path in paths)
    return sorted(
        {"/".join(folder) for names in parts for folder in itertools.accumulate([n] for n in names)}
    )
