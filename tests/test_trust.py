"""Claims about files that are code: they do not run, and what is plain in them is read all the same."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from magi.cli.tokenizer_convert import main as convert_command
from magi.tokenizers.published import untrusted
from magi.tokenizers.published.convert import convert
from magi.tokenizers.published.facts import PUBLISHED
from magi.tokenizers.published.omnitokenizer_names import from_published
from magi.tokenizers.published.placed import find_folder
from magi.tokenizers.published.stable_diffusion import StableDiffusionAutoencoder
from magi.tokenizers.published.trust import PIN_FILE, Contents, Trust, Untrusted, read_code, sha256_of
from magi.tokenizers.store import fingerprint, load_tokenizer
from tests.test_omnitokenizer import TINY_ARGUMENTS, published_state
from tests.test_stable_diffusion import TINY, write_published


class Sentinel:
    """Unpickled, it leaves a file; which is what any code could do."""

    def __init__(self, path: Path, call: Any = os.system):
        self.path, self.call = path, call

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return self.call, (f"touch {self.path}" if self.call is os.system else f"open({str(self.path)!r}, 'w')",)


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the program that reads code in this process: starting another takes seconds."""

    def run(words: list[str], path: Path) -> None:
        assert untrusted.main(words) == 0

    monkeypatch.setattr("magi.tokenizers.published.trust._run", run)
    monkeypatch.setattr(untrusted, "limit", lambda size, seconds: None)


@pytest.fixture(autouse=True)
def no_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PIN_FILE, str(tmp_path / "pins"))


def read(path: Path, trust: Trust | None = None) -> Contents:
    return read_code(path, "pickle", digest=sha256_of(path), trust=trust or Trust())


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def test_a_malicious_pickle_does_not_run(tmp_path: Path) -> None:
    """Among honest weights, an object whose unpickling calls the shell: the file is refused with what it names and its
    hash, and the shell was never called. Read as if it were trusted it is called: the refusal was what stopped it."""
    sentinel = tmp_path / "ran"
    state = {"quant_conv.weight": torch.zeros(8, 8, 1, 1), "extra": Sentinel(sentinel)}
    file = write(tmp_path / "diffusion_pytorch_model.bin", state)
    digest = sha256_of(file)
    words = ["sd14", str(file), "--out", str(tmp_path / "out")]
    with pytest.raises(Untrusted, match=rf"is code: it names posix\.system.*--sha256 {digest}"):
        convert_command(words)
    assert not sentinel.exists() and not (tmp_path / "out").exists()
    untrusted.unpickle(file.read_bytes(), trusted=True)
    assert sentinel.exists()


@pytest.mark.parametrize("call", [os.system, eval, exec], ids=["system", "eval", "exec"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_no_form_of_pickle_runs(call: Any, zipped: bool, tmp_path: Path) -> None:
    """In today's archives and in the bare pickles of before 2020, whatever is called, and wherever it hides."""
    content = {"hyper_parameters": argparse.Namespace(x=Sentinel(tmp_path / "ran", call)), "state_dict": {}}
    torch.save(content, tmp_path / "file", _use_new_zipfile_serialization=zipped)
    with pytest.raises(untrusted.NeedsTrust, match=r"it names (posix\.system|eval|exec), which is code"):
        untrusted.unpickle((tmp_path / "file").read_bytes(), trusted=False)
    assert not (tmp_path / "ran").exists()


def lightning_like(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Lightning's checkpoints hold: weights, a Namespace of arguments, and a class of its own as a key."""
    module = ModuleType("pytorch_lightning.callbacks")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, "pytorch_lightning", ModuleType("pytorch_lightning"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    arguments = argparse.Namespace(patch_size=8, spatial=["t", "w"], ratio=0.5, name=None, dtype=torch.float32)
    return {
        "epoch": 3,
        "state_dict": OrderedDict(
            [("encoder.weight", torch.arange(6.0).view(2, 3).t()), ("bias", torch.ones(2).half())]
        ),
        "callbacks": {module.ModelCheckpoint: {"best": torch.tensor(1.0)}},
        "hyper_parameters": {"args": arguments, "rate": 1e-4},
    }


@pytest.mark.usefixtures("read_here")
def test_a_lightning_checkpoint_is_read_without_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors to the bit and in their own type, arguments out of the Namespace as plain values; those that are none are
    named; Lightning itself is not needed, and stays what it is: a name."""
    content = lightning_like(monkeypatch)
    file = write(tmp_path / "k600.ckpt", content)
    monkeypatch.delitem(sys.modules, "pytorch_lightning.callbacks")
    contents = read(file)
    assert contents.tensors.keys() == content["state_dict"].keys()
    for name, tensor in content["state_dict"].items():
        assert torch.equal(contents.tensors[name], tensor) and contents.tensors[name].dtype == tensor.dtype
    plain = {"patch_size": 8, "spatial": ["t", "w"], "ratio": 0.5, "name": None, "rate": 1e-4}
    assert contents.arguments == plain and list(contents.omitted) == ["dtype"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is in use is only told by Linux")
def test_a_small_file_cannot_take_all_memory(tmp_path: Path) -> None:
    """A tensor of four gigabytes that repeats one number takes no room in a file; writing it out meets the limit, which
    is told in a line, where there is one."""
    file = write(tmp_path / "bomb.bin", {"weight": torch.zeros(1).expand(2**30)})
    assert file.stat().st_size < 2000
    with pytest.raises(ValueError, match=r"bomb\.bin was not read: .*memory"):
        read(file)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is in use is only told by Linux")
def test_the_limits_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Address space for some copies of the file, processor time, no core dumps: never more than was allowed before."""
    import resource

    told: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "setrlimit", lambda kind, bounds: told.update({kind: bounds}))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (0, 100 if kind == resource.RLIMIT_CPU else -1))
    untrusted.limit(10**9, 900)
    assert told[resource.RLIMIT_CPU] == (100, 100) and told[resource.RLIMIT_CORE][0] == 0
    assert 6e9 < told[resource.RLIMIT_AS][0] < 100e9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "a list, expected a state dict"),
        ({"epoch": 1}, "no tensors by name, but epoch"),
        ({"state_dict": {}}, "no tensors by name, but nothing"),
        ({"state_dict": 1}, "its state_dict is a int"),
    ],
)
def test_what_is_no_state_dict_is_refused(content: Any, message: str) -> None:
    """Told apart from what is code: to trust it would not help."""
    with pytest.raises(untrusted.Failed, match=message):
        untrusted.state_of(content)


def test_garbage_and_changed_files_are_refused(tmp_path: Path) -> None:
    """A text is no checkpoint; and a file that is no longer the one that was vouched for is not read."""
    (tmp_path / "garbage.bin").write_bytes(b"not a pickle at all")
    with pytest.raises(untrusted.NeedsTrust, match="it is more than tensors"):
        untrusted.unpickle(b"not a pickle at all", trusted=False)
    with pytest.raises(untrusted.Failed, match="it changed"):
        untrusted.main(["pickle", str(tmp_path / "garbage.bin"), str(tmp_path), "0" * 64, "trusted", str(10**6)])


@pytest.mark.usefixtures("read_here")
def test_old_weights_convert_to_the_same_tokenizer(tmp_path: Path) -> None:
    """Pickled, with the attention layers' old names: the folder that comes out has no code, says where it is from, and
    is the tokenizer whose weights went in, to the bit."""
    torch.manual_seed(3)
    tokenizer = StableDiffusionAutoencoder(TINY).eval()
    file = write_published(tmp_path / "old", tokenizer, pickled=True)
    assert any(".query." in name for name in torch.load(file, weights_only=True))
    with pytest.raises(ValueError, match=rf"is pickled.*magi tokenizer convert sd-vae-ft-mse {file} --out"):
        load_tokenizer(f"sd-vae-ft-mse:{tmp_path / 'old'}")
    convert("sd-vae-ft-mse", [file], tmp_path / "new", trust=Trust())
    loaded = load_tokenizer(f"sd-vae-ft-mse:{tmp_path / 'new'}")
    pixels = torch.rand(1, 2, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(loaded.encode(pixels), tokenizer.encode(pixels), rtol=1e-4, atol=1e-6)
    assert fingerprint(loaded) == fingerprint(tokenizer) == fingerprint(load_tokenizer(str(tmp_path / "new")))
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "MANIFEST.json", "README.md", "config.json", "tokenizer.safetensors"
    }  # fmt: skip
    source = json.loads((tmp_path / "new/config.json").read_text())["source"]
    assert source == {
        "name": "sd-vae-ft-mse",
        "repository": "stabilityai/sd-vae-ft-mse",
        "licence": "MIT",
        "sha256": {file.name: sha256_of(file)},
    }


def test_safetensors_convert_without_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no code: nothing is started, and to trust them has no effect, which is an error."""
    tokenizer = StableDiffusionAutoencoder(TINY).eval()
    file = write_published(tmp_path / "new", tokenizer)
    monkeypatch.setattr("magi.tokenizers.published.trust._run", None)
    with pytest.raises(ValueError, match="--trust-code has no effect"):
        convert("sd14", [file], tmp_path / "out", trust=Trust(code=True))
    assert fingerprint(convert("sd14", [file], tmp_path / "out", trust=Trust())) == fingerprint(tokenizer)


def test_trust_is_by_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trusted by itself; one hash trusts one file; the user's list is in the form of sha256sum, by default
    in the folder of settings."""
    one, other = "a" * 64, "b" * 64
    assert not Trust().allows(one)
    assert Trust(sha256=frozenset({one.upper()})).allows(one) and not Trust(sha256=frozenset({one})).allows(other)
    assert Trust(code=True).allows(other)
    (tmp_path / "pins").write_text(f"{other}  *encoder.jit\n")
    assert Trust().allows(other) and not Trust().allows(one)
    monkeypatch.delenv(PIN_FILE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    assert not Trust().allows(other)
    (tmp_path / "settings/magi").mkdir(parents=True)
    (tmp_path / "pins").rename(tmp_path / "settings/magi/trusted-sha256")
    assert Trust().allows(other)
    with pytest.raises(ValueError, match="64 hexadecimal digits, got 'abc'"):
        Trust(sha256=frozenset({"abc"}))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_published_tokenizer_says_how_it_is_placed(name: str, tmp_path: Path) -> None:
    """One line, with all that a user has to know: files, place, licence, and commands; for files that are code, the one
    that converts them."""
    entry = PUBLISHED[name]
    with pytest.raises(ValueError) as caught:
        load_tokenizer(f"{name}:{tmp_path / 'nowhere'}")
    told = str(caught.value)
    assert "\n" not in told and all(file in told for file in entry.files)
    assert entry.repository in told and entry.licence in told and entry.placing in told
    assert (f"magi tokenizer convert {name} FOLDER/{entry.files[0]}" in told) == entry.is_code
    with pytest.raises(ValueError, match="there is no file"):
        convert(name, [tmp_path / "nowhere.bin"], tmp_path / "out", trust=Trust())


def test_a_checkpoint_is_named_for_conversion(tmp_path: Path) -> None:
    """OmniTokenizer's file, named as if it were a tokenizer or lying in the folder that is named, is told what to do
    with; a kind that is not published is told from those that are."""
    entry = PUBLISHED["omnitokenizer"]
    file = write(tmp_path / entry.files[0], {"state_dict": {}})
    with pytest.raises(ValueError, match=r"is a file.*magi tokenizer convert omnitokenizer"):
        find_folder(entry, str(file))
    with pytest.raises(ValueError, match=r"holds a pickled checkpoint.*magi tokenizer convert omnitokenizer"):
        load_tokenizer(f"omnitokenizer:{tmp_path}")
    with pytest.raises(ValueError, match="no published tokenizer 'sd15'; expected one of sd14"):
        convert("sd15", [file], tmp_path / "out", trust=Trust())
    with pytest.raises(ValueError, match="give one file"):
        convert("sd14", [file, file], tmp_path / "out", trust=Trust())


@pytest.mark.usefixtures("read_here")
@pytest.mark.filterwarnings("ignore:the latent statistics")
def test_an_omnitokenizer_converts_to_the_same_tokenizer(tmp_path: Path) -> None:
    """From Lightning's checkpoint, with what only trains and arguments in a Namespace, comes the folder of the very
    tokenizer, which then needs neither; what the checkpoint is not is told with its name."""
    arguments = argparse.Namespace(**TINY_ARGUMENTS)
    content = {"epoch": 3, "state_dict": published_state(), "hyper_parameters": {"args": arguments}}
    file = write(tmp_path / "imagenet_k600_vae.ckpt", content)
    convert("omnitokenizer", [file], tmp_path / "out", trust=Trust())
    loaded = load_tokenizer(f"omnitokenizer:{tmp_path / 'out'}")
    assert fingerprint(loaded) == fingerprint(from_published(published_state(), TINY_ARGUMENTS))
    assert fingerprint(loaded) == fingerprint(load_tokenizer(str(tmp_path / "out")))
    assert json.loads((tmp_path / "out/config.json").read_text())["source"]["arguments"] == TINY_ARGUMENTS
    del content["state_dict"]["post_vq_conv.1.bias"]
    write(file, content)
    with pytest.raises(
        ValueError, match=r"imagenet_k600_vae\.ckpt: these weights are not.*missing: post_vq_conv\.1\.bias"
    ):
        convert("omnitokenizer", [file], tmp_path / "another", trust=Trust())


def test_statistics_beside_the_weights_are_converted(tmp_path: Path) -> None:
    """Measured before the conversion, they go along."""
    tokenizer = StableDiffusionAutoencoder(TINY).eval()
    file = write_published(tmp_path / "new", tokenizer)
    shift, scale = torch.arange(4.0), torch.arange(1.0, 5.0)
    save_file({"shift": shift, "scale": scale}, tmp_path / "new/statistics.safetensors")
    convert("sd14", [file], tmp_path / "out", trust=Trust())
    loaded = load_tokenizer(str(tmp_path / "out"))
    assert isinstance(loaded, StableDiffusionAutoencoder)
    assert torch.equal(loaded.shift, shift) and torch.equal(loaded.scale, scale)
