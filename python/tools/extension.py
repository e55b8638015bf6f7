"""Builds dualpool as a Python package with its extension module, for `python -m dualpool` under any Python from 3.10 on.

As a PEP 517 backend (`pip install .`) it makes a wheel, with `--config-settings profile=dev` of another cargo profile; as a program it lays the package out in a folder, which then goes on
PYTHONPATH. It needs cargo and the standard library.
"""

import argparse
import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The oldest Python whose stable ABI the module keeps to; as in Cargo.toml's `extension-module`.
TAG = "cp310-abi3"
OLDEST = ">=3.10"


def cargo(profile: str) -> Path:
    """The extension module, built by cargo."""
    environment = dict(os.environ)
    if not (ROOT / ".venv/bin/python").exists():
        # `.cargo/config.toml` names an interpreter that is not there. The stable ABI needs none.
        environment["PYO3_NO_PYTHON"] = "1"
    command = ["cargo", "rustc", "--lib", "--crate-type", "cdylib", "--features", "extension-module", "--profile", profile]
    subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    return ROOT / target / ("debug" if profile == "dev" else profile) / "libdualpool.so"


def package(profile: str) -> dict[str, Path]:
    """Every file of the package, by its place in it."""
    sources = sorted((ROOT / "python/dualpool").rglob("*.py"))
    files = {str(path.relative_to(ROOT / "python")): path for path in sources}
    files["dualpool/_native.abi3.so"] = cargo(profile)
    return files


def manifest(key: str) -> str:
    """A value of Cargo.toml's `[package]`, its first table."""
    return re.search(rf'^{key} = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    name = f"dualpool-{manifest('version')}"
    platform = re.sub(r"[-.]", "_", sysconfig.get_platform())
    metadata = {
        "METADATA": f"Metadata-Version: 2.1\nName: dualpool\nVersion: {manifest('version')}\nSummary: {manifest('description')}\n"
        f"License: {manifest('license')}\nRequires-Python: {OLDEST}\n",
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: dualpool\nRoot-Is-Purelib: false\nTag: {TAG}-{platform}\n",
    }
    contents = {place: path.read_bytes() for place, path in package((config_settings or {}).get("profile", "release")).items()}
    contents |= {f"{name}.dist-info/{file}": text.encode() for file, text in metadata.items()}
    record = f"{name}.dist-info/RECORD"
    lines = [f"{place},{digest(content)},{len(content)}" for place, content in contents.items()]
    contents[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    wheel = f"{name}-{TAG}-{platform}.whl"
    with zipfile.ZipFile(Path(wheel_directory) / wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, content in contents.items():
            archive.writestr(place, content)
    return wheel


def digest(content: bytes) -> str:
    """As a wheel's RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def build_sdist(sdist_directory, config_settings=None) -> str:
    raise NotImplementedError("dualpool is built from its repository; there is no source distribution")


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds dualpool's Python package with its extension module.")
    parser.add_argument("folder", type=Path, help="where to put the package; set PYTHONPATH to it")
    parser.add_argument("--profile", default="release", help="cargo profile [default: release]")
    args = parser.parse_args()
    for place, path in package(args.profile).items():
        target = args.folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        # Put in place in one go: a process that has the old module loaded keeps it.
        part = target.with_name(target.name + ".part")
        shutil.copy(path, part)
        part.replace(target)
    print(args.folder)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
