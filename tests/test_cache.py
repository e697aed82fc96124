"""The disk cache: round trips, corruption, concurrency, privacy."""

import hashlib
import json
import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashlight.base import cache as module
from flashlight.base.cache import Cache, CacheError, Usage, default_root

DOCUMENT = {"kernels": [{"name": "attn0", "source": "é\n" * 50}, {"name": "attn1"}], "pi": 3.14, "none": None}


def key_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


KEY = key_of("a")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_round_trip_across_instances(cache: Cache):
    assert cache.get(KEY) is None
    assert not cache.root.exists()
    cache.put(KEY, DOCUMENT)
    assert Cache(cache.root).get(KEY) == DOCUMENT
    cache.put(KEY, {"other": 1})
    assert cache.get(KEY) == {"other": 1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_any_json_survives(cache: Cache, document):
    cache.put(KEY, document)
    assert cache.get(KEY) == document


def test_keys_that_are_numbers_become_text(cache: Cache):
    cache.put(KEY, {10: 1, 9: 2})  # pyright: ignore[reportArgumentType]
    assert cache.get(KEY) == {"10": 1, "9": 2}


@pytest.mark.parametrize("key", ["", "../" + "a" * 61, "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_bad_keys(cache: Cache, key: str):
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        cache.get(key)


def test_not_json(cache: Cache):
    with pytest.raises(TypeError):
        cache.put(KEY, {"x": object()})
    assert cache.get(KEY) is None


def entry_file(cache: Cache) -> Path:
    return cache.root / f"{KEY}.json"


def test_truncation_is_a_miss(cache: Cache):
    cache.put(KEY, DOCUMENT)
    whole = entry_file(cache).read_bytes()
    for length in range(0, len(whole), 7):
        entry_file(cache).write_bytes(whole[:length])
        assert cache.get(KEY) is None
        assert not entry_file(cache).exists()


def test_bit_flips_are_misses(cache: Cache):
    cache.put(KEY, {"kernels": [{"name": "attn0", "source": "x = 1 + 2"}]})
    whole = entry_file(cache).read_bytes()
    for position in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        entry_file(cache).write_bytes(flipped)
        # A flip in the white space of the file may leave the document as it was; never another document.
        assert cache.get(KEY) in (None, {"kernels": [{"name": "attn0", "source": "x = 1 + 2"}]})


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"\xff\xfe", b"{}", b'{"format": 1}', b"[" * 100_000])
def test_rubbish_is_removed(cache: Cache, data: bytes):
    cache.put(KEY, DOCUMENT)
    entry_file(cache).write_bytes(data)
    assert cache.get(KEY) is None
    assert not entry_file(cache).exists()
    cache.put(KEY, DOCUMENT)
    assert cache.get(KEY) == DOCUMENT


def test_entry_under_another_key_is_a_miss(cache: Cache):
    cache.put(KEY, DOCUMENT)
    other = key_of("b")
    entry_file(cache).rename(cache.root / f"{other}.json")
    assert cache.get(other) is None


def test_stale_format(cache: Cache, monkeypatch: pytest.MonkeyPatch):
    cache.put(KEY, DOCUMENT)
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    assert cache.get(KEY) is None
    assert not entry_file(cache).exists()


REGION = {
    "value": {
        "source": "model.py:12",
        "program": {
            "inputs": [{"name": "in0", "shape": [2, 64], "strides": [64, 1], "dtype": "torch.float32"}],
            "outputs": [{"name": "out0", "shape": [2], "strides": [1], "dtype": "torch.bfloat16"}],
        },
        "schedule": {"kernels": [{"name": "attn0"}]},
    }
}


def native_file(cache: Cache, name: str, size: int = 10) -> Path:
    path = cache.root / "native" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


LIBRARY = "avx512-" + "1" * 32


def test_entries(cache: Cache):
    assert (cache.entries(), cache.clear(), cache.usage()) == ([], Usage(), Usage())
    cache.put(KEY, REGION)
    cache.put(key_of("b"), {"value": {"schedule": {"kernels": 3}, "program": {"inputs": 7}}})
    os.utime(entry_file(cache), (1, 1))
    newest, oldest = cache.entries()
    assert (newest.key, newest.kernels, newest.source, newest.inputs) == (key_of("b"), (), "", ())
    assert (oldest.key, oldest.kernels, oldest.mtime) == (KEY, ("attn0",), 1)
    assert oldest.size == entry_file(cache).stat().st_size
    assert oldest.source == "model.py:12"
    assert (oldest.inputs, oldest.outputs) == ((("float32", (2, 64)),), (("bfloat16", (2,)),))


def test_clear_removes_all_of_ours_and_nothing_else(cache: Cache):
    cache.put(KEY, DOCUMENT)
    cache.remember(KEY, "tiling", [128, 64])
    cache.remember(key_of("b"), "report", {})  # of a graph, which has no region of this key
    strangers = [cache.root / "notes.json", native_file(cache, "notes.txt")]
    strangers[0].write_text("{}")
    for ending in (f"{'2' * 32}.so", "cpp"):
        native_file(cache, f"{LIBRARY}.{ending}")
    living, abandoned = cache.root / ".tmp-living", cache.root / ".tmp-abandoned"
    for path in (living, abandoned):
        path.write_text("x")
    writing, killed = native_file(cache, ".tmp-writing"), native_file(cache, ".tmp-killed")
    for path in (abandoned, killed):
        os.utime(path, (1, 1))
    usage = cache.usage()
    assert cache.clear() == usage
    assert (usage.regions, usage.libraries, usage.other) == (1, 1, 5)
    left = {path for path in cache.root.rglob("*") if path.is_file()}
    assert left == {*strangers, living, writing}
    assert cache.recall(KEY, "tiling") is None


def test_prune_removes_what_was_not_used_for_longest(cache: Cache):
    keys = [key_of(text) for text in "abc"]
    for age, key in enumerate(keys):
        cache.put(key, DOCUMENT)
        cache.remember(key, "tiling", 1)
        for path in cache.root.glob(f"{key}*"):
            os.utime(path, (100 - age, 100 - age))
    library = native_file(cache, f"{LIBRARY}.so", 1000)
    source = native_file(cache, f"{LIBRARY}.cpp", 1000)
    os.utime(source, (1, 1))
    os.utime(library, (99.5, 1))  # read after it was written
    whole = cache.usage().size
    assert cache.prune(whole) == Usage()
    removed = cache.prune(whole - 1)
    assert (removed.regions, removed.other) == (1, 1) and removed.size > 1
    assert [entry.key for entry in cache.entries()] == keys[:2]
    assert cache.usage().size == whole - removed.size
    assert cache.get(keys[0]) == DOCUMENT
    assert cache.prune(cache.usage().size - removed.size).regions == 1
    removed = cache.prune(cache.usage().size - 1)
    assert (removed.regions, removed.libraries, removed.other, removed.size) == (0, 1, 1, 2000)
    assert cache.prune(0).regions == 1 and cache.usage() == Usage()


def test_facts(cache: Cache):
    assert cache.recall(KEY, "tiling") is None
    cache.remember(KEY, "tiling", {"BLOCK_M": 64})
    cache.remember(KEY, "tiling/NVIDIA H100 \u00b5", 3)
    assert cache.recall(KEY, "tiling") == {"BLOCK_M": 64}
    assert cache.recall(KEY, "tiling/NVIDIA H100 \u00b5") == 3
    assert cache.recall(key_of("b"), "tiling") is None
    assert cache.get(KEY) is None
    assert cache.entries() == []
    for path in cache.root.glob("*.json"):
        path.write_text(path.read_text()[:-9])
    assert cache.recall(KEY, "tiling") is None


def write_many(root: str, worker: int) -> None:
    cache = Cache(root)
    for step in range(60):
        cache.put(KEY, {"worker": worker, "text": f"{worker}" * 20_000})
        cache.remember(KEY, f"fact{worker}", step)
        document = cache.get(KEY)
        assert document is not None
        assert document["text"] == f"{document['worker']}" * 20_000


def test_concurrent_writers(cache: Cache):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(str(cache.root), worker)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert [cache.recall(KEY, f"fact{worker}") for worker in range(3)] == [59, 59, 59]
    assert not list(cache.root.glob(".tmp-*"))


def test_created_private(cache: Cache):
    old = os.umask(0)
    try:
        cache.put(KEY, DOCUMENT)
    finally:
        os.umask(old)
    assert cache.root.stat().st_mode & 0o777 == 0o700
    assert entry_file(cache).stat().st_mode & 0o777 == 0o600


def test_world_writable_directory_is_refused(cache: Cache):
    cache.put(KEY, DOCUMENT)
    cache.root.chmod(0o777)
    with pytest.raises(CacheError, match=r"anyone may write .*chmod 700"):
        Cache(cache.root)
    with pytest.raises(CacheError, match="anyone may write"):
        cache.put(KEY, DOCUMENT)


def test_directory_of_another_user_is_refused(cache: Cache, monkeypatch: pytest.MonkeyPatch):
    cache.put(KEY, DOCUMENT)
    monkeypatch.setattr(os, "geteuid", lambda: cache.root.stat().st_uid + 1)
    with pytest.raises(CacheError, match="belongs to user"):
        Cache(cache.root)


def test_file_in_place_of_the_directory(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="not a directory"):
        Cache(tmp_path / "file")
    with pytest.raises(CacheError, match="cannot write to the cache directory"):
        Cache(tmp_path / "file" / "below").put(KEY, DOCUMENT)


def test_no_such_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLASHLIGHT_CACHE_DIR", "~nobody-of-this-name/cache")
    with pytest.raises(CacheError, match="no cache directory ~nobody-of-this-name"):
        Cache()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_regular_files_are_read(cache: Cache, kind: str):
    cache.put(KEY, DOCUMENT)
    path, elsewhere = entry_file(cache), cache.root / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere) if kind == "link" else os.mkfifo(path) if kind == "pipe" else path.mkdir()
    assert cache.get(KEY) is None


def test_a_directory_that_became_public_is_not_read(cache: Cache):
    cache.put(KEY, DOCUMENT)
    cache.root.chmod(0o777)
    assert cache.get(KEY) is None
    cache.root.chmod(0o700)
    assert cache.get(KEY) == DOCUMENT


def test_failed_write_leaves_nothing(cache: Cache, monkeypatch: pytest.MonkeyPatch):
    cache.put(KEY, DOCUMENT)

    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(CacheError, match="No space left"):
        cache.put(KEY, {"x": 1})
    assert cache.get(KEY) == DOCUMENT
    assert not list(cache.root.glob(".tmp-*"))


def test_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("FLASHLIGHT_CACHE_DIR", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert Cache().root == tmp_path / "a"
    monkeypatch.delenv("FLASHLIGHT_CACHE_DIR")
    assert default_root() == tmp_path / "b" / "flashlight"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_root() == tmp_path / "c" / ".cache" / "flashlight"


def test_file_is_readable_json(cache: Cache):
    cache.put(KEY, DOCUMENT)
    assert json.loads(entry_file(cache).read_text())["document"] == DOCUMENT
