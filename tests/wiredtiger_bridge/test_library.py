"""Which WiredTiger is served, and what a program puts into its configuration."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from bucketry.errors import Invalid, Unsupported
from bucketry.files.wiredtiger import configuration, extension, library, load
from bucketry.files.wiredtiger.tables import RELEASES, release_of


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """A module that says it is WiredTiger 11.3.1, and a cache directory of the test's own."""
    module = ModuleType("wiredtiger")
    vars(module).update(
        wiredtiger_version=lambda: ["WiredTiger 11.3.1", 11, 3, 1],
        FileSystem=SimpleNamespace(open_readonly=0x100),
    )
    monkeypatch.setitem(sys.modules, "wiredtiger", module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_libraries", {})
    return module


def test_known_releases_differ_where_they_do() -> None:
    """The slots and flags of each, as compiled from its headers."""
    slots = {
        version: (release.add_storage_source, release.get_extension_api, release.readonly)
        for version, release in RELEASES.items()
    }
    assert slots == {(11, 1): (17, 19, 0x80), (11, 2): (17, 19, 0x100), (11, 3): (18, 20, 0x100)}


@pytest.mark.parametrize("version", [(10, 0, 0), (11, 0, 0), (11, 4, 0), (12, 0, 0)])
def test_unknown_releases_are_refused(installed: ModuleType, version: tuple[int, int, int]) -> None:
    """One line says which are known: a wrong slot would call a wrong function."""
    shown = ".".join(map(str, version))
    expected = f"WiredTiger {shown} is none of the releases that the bridge knows: 11.1, 11.2, 11.3"
    with pytest.raises(Unsupported) as raised:
        release_of(*version)
    assert str(raised.value) == expected
    vars(installed)["wiredtiger_version"] = lambda: ["", *version]
    with pytest.raises(Unsupported, match="is none of the releases"):
        extension()


def test_a_module_whose_flags_are_others_is_refused(installed: ModuleType) -> None:
    """The number that the module itself gives must be the one we know."""
    vars(installed)["FileSystem"] = SimpleNamespace(open_readonly=0x80)
    with pytest.raises(Unsupported, match="has other flags"):
        extension()


def test_without_wiredtiger_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "wiredtiger", None)
    with pytest.raises(ImportError, match=r"pip install 'bucketry\[wiredtiger\]'"):
        extension()


def test_a_configuration_as_wiredtiger_reads_it(installed: ModuleType, tmp_path: Path) -> None:
    """The scheme of the URL travels in the extension's options, for WiredTiger cannot hold a colon."""
    text = configuration(
        "s3://my-bucket",
        "db-1/",
        endpoint="http://127.0.0.1:9000",
        cache_size="20G",
        local_retention=5,
        sse=None,
    )
    path = tmp_path / "cache/bucketry/libbucketry_wiredtiger.so"
    assert path.is_file()
    assert text == (
        f'extensions=["{path}"=(config=(name=bucketry,bucket_prefix="db-1/",endpoint="http://127.0.0.1:9000",'
        'cache_size=20G,buckets="s3://"))],'
        'tiered_storage=(name=bucketry,bucket=my-bucket,bucket_prefix="db-1/",local_retention=5)'
    )
    pair = configuration("my-bucket;eu-west-1", "p", name="s3_store", auth_token="AKID;se/cr+et")
    assert 'bucket="my-bucket;eu-west-1",bucket_prefix=p,auth_token="AKID;se/cr+et"' in pair


@pytest.mark.parametrize("bucket", ["", "s3://", "s3://a bucket", 's3://a"b', "file:///a=b", "s3://a:b"])
def test_buckets_that_wiredtiger_cannot_hold_are_refused(installed: ModuleType, bucket: str) -> None:
    """Before it writes them into its metadata and cannot read them again."""
    with pytest.raises(Invalid, match="bucket"):
        configuration(bucket, "p")


def test_wrong_options_are_exceptions(installed: ModuleType) -> None:
    """Of the function, not of wiredtiger_open."""
    with pytest.raises(Invalid, match="unknown option cache_sise: did you mean cache_size"):
        extension(cache_sise="1G")


def test_a_library_at_a_path_of_the_programs(installed: ModuleType, tmp_path: Path) -> None:
    """Loading it again changes its options, not the file."""
    path = tmp_path / "ext" / "libwiredtiger_s3_store.so"
    assert load(path, name="s3_store") == path
    inode = path.stat().st_ino
    assert load(path, name="s3_store", owner="ignore", idempotent=False) == path
    assert path.stat().st_ino == inode
    found = library._libraries[path]
    assert found.options == {"name": "s3_store", "owner": "ignore", "idempotent": "false"}


def test_a_cache_directory_that_cannot_be_written(
    installed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary directory does as well."""
    (tmp_path / "cache").write_text("no directory")
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(tmp_path))
    assert library.default_path() == tmp_path / "libbucketry_wiredtiger.so"
