"""Where base models are looked for. The hub is a stub here: nothing is fetched."""

import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from lorasmith.errors import ModelError
from lorasmith.families.locate import DEMO_MODEL, find_checkpoints, locate, locate_clip
from tests.families.tiny import published, write_header


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Fails on every call; the calls are listed."""
    calls: list[tuple[str, list[str]]] = []

    def download(repo_id: str, *, allow_patterns: list[str]) -> str:
        calls.append((repo_id, allow_patterns))
        raise LocalEntryNotFoundError("not here")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def test_a_path_that_exists_is_taken(tmp_path: Path, hub: list[Any]) -> None:
    (tmp_path / "owner" / "model").mkdir(parents=True)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert locate("owner/model", near=tmp_path) == tmp_path / "owner" / "model"
    assert locate("model.safetensors", near=tmp_path) == tmp_path / "model.safetensors"
    assert locate(str(tmp_path / "model.safetensors"), near=Path("/nowhere")) == tmp_path / "model.safetensors"
    assert hub == []


def test_a_relative_start_gives_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: list[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.ckpt").write_bytes(b"")
    assert locate("model.ckpt", near=Path()) == tmp_path / "model.ckpt"


def test_home_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model.ckpt").write_bytes(b"")
    assert locate("~/model.ckpt", near=Path("/nowhere")) == tmp_path / "model.ckpt"


@pytest.mark.parametrize(
    "name",
    [
        "owner/model.safetensors",
        "owner/MODEL.CKPT",
        "./model",
        "../model",
        "/owner/model",
        "~/model",
        "a/b/c",
        "models\\sd",
        "C:/model",
        "",
        "model",
        "owner/",
        "owner/mo del",
        "owner/..",
    ],
)
def test_what_is_no_hub_id_never_asks_the_hub(tmp_path: Path, hub: list[Any], name: str) -> None:
    with pytest.raises(ModelError) as caught:
        locate(name, near=tmp_path)
    assert caught.value.code == "base_model_not_found"
    assert caught.value.fields["base_model"] == name
    assert hub == []


def test_demo_is_the_bundled_one_unless_there_is_a_folder_of_that_name(
    tmp_path: Path, hub: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert locate("demo", near=tmp_path) == DEMO_MODEL
    assert (DEMO_MODEL / "model_index.json").is_file()
    (tmp_path / "demo").mkdir()
    assert locate("demo", near=tmp_path) == tmp_path / "demo"
    monkeypatch.chdir(tmp_path)
    assert locate("demo", near=None) == DEMO_MODEL
    assert hub == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LocalEntryNotFoundError("x"), "offline"),
        (OfflineModeIsEnabled("x"), "offline"),
        (ConnectionError("x"), "offline"),
        (HfHubHTTPError, "hub"),
    ],
)
def test_a_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any, reason: str) -> None:
    if isinstance(error, type):  # its constructor wants the answer of a server
        kind: Any = error
        error = kind.__new__(kind)

    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match="base_model_not_found") as caught:
        locate("owner/model", near=tmp_path)
    assert caught.value.fields["reason"] == reason


@pytest.mark.parametrize("suffix", ["safetensors", "fp16.safetensors", "bin"])
@pytest.mark.parametrize("index_names", ["nothing", "a text encoder", "two text encoders"])
def test_only_one_kind_of_weights_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, index_names: str
) -> None:
    from fnmatch import fnmatch

    text = "pytorch_model.bin" if suffix == "bin" else f"model.{suffix}"
    weights = [
        f"unet/diffusion_pytorch_model.{suffix}",
        f"vae/diffusion_pytorch_model.{suffix}",
        f"text_encoder/{text}",
    ]
    others = ["v1-5-pruned.safetensors", "safety_checker/model.safetensors", "unet/diffusion_flax_model.msgpack"]
    small = ["unet/config.json", "scheduler/scheduler_config.json", "tokenizer/merges.txt"]
    index = {"unet": ["diffusers", "X"], "vae": ["diffusers", "X"], "safety_checker": ["stable_diffusion", "X"]}
    classes = {"text_encoder": ["transformers", "X"], "text_encoder_2": ["transformers", "X"]}
    has_second = index_names == "two text encoders"
    if has_second:
        weights.append(f"text_encoder_2/{text}")
        small.append("tokenizer_2/merges.txt")
    elif index_names == "nothing":
        index, classes = {}, {}
    if not has_second:
        classes.pop("text_encoder_2", None)
    snapshot = tmp_path / "snapshot"

    def download(repo_id: str, *, allow_patterns: list[str]) -> str:
        for name in [*weights, *small, *others]:
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                (snapshot / name).touch()
        snapshot.mkdir(exist_ok=True)
        (snapshot / "model_index.json").write_text(json.dumps({"_class_name": "X", **index, **classes}))
        return str(snapshot)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate("owner/model", near=tmp_path) == snapshot
    fetched = {one.relative_to(snapshot).as_posix() for one in snapshot.rglob("*") if one.is_file()}
    assert fetched == {"model_index.json", *weights, *small}


def test_a_pipeline_of_blocks_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its index has another name, and a third entry for each component."""
    from fnmatch import fnmatch

    snapshot = tmp_path / "snapshot"
    parts = {"transformer": "CosmosTransformer3DModel", "vae": "AutoencoderKLQwenImage", "t5_tokenizer": "T5Tokenizer"}
    index = {"_class_name": "AnimaModularPipeline", **{part: ["x", kind, {}] for part, kind in parts.items()}}
    weights = [f"{part}/diffusion_pytorch_model.safetensors" for part in ("transformer", "vae")]
    asked: list[list[str]] = []

    def download(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        for name in ["modular_model_index.json", "t5_tokenizer/tokenizer.json", *weights]:
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                touched(snapshot / name)
        (snapshot / "modular_model_index.json").write_text(json.dumps(index))
        return str(snapshot)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate("owner/model", near=tmp_path) == snapshot
    assert len(asked) == 2 and all((snapshot / name).is_file() for name in ["t5_tokenizer/tokenizer.json", *weights])


def test_a_hub_id_offline_is_found_in_the_librarys_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real library, which reads its variables when it is imported: a process of its own."""
    import subprocess
    import sys

    snapshot = hub_model(tmp_path / "hub", "owner", "model")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    for part in ("unet", "vae"):
        (snapshot / part).mkdir(exist_ok=True)
        (snapshot / part / "diffusion_pytorch_model.safetensors").touch()
    (snapshot / "text_encoder").mkdir()
    (snapshot / "text_encoder" / "model.safetensors").touch()
    code = (
        "from pathlib import Path; from lorasmith.families.locate import DEMO_MODEL, locate\n"
        "print(locate('owner/model', near=Path()))\n"
        "locate('owner/other', near=Path())"
    )
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path.cwd()),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(snapshot)
    assert "base_model_not_found(base_model='owner/other', reason='offline')" in done.stderr


# -- what to offer ---------------------------------------------------------------------------------


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def denoiser(path: Path, name: str) -> Path:
    """A published file of ComfyUI by its header."""
    return write_header(touched(path), published(name))


def hub_model(cache: Path, owner: str, name: str, *, kind: str = "StableDiffusionPipeline") -> Path:
    snapshot = cache / f"models--{owner}--{name}" / "snapshots" / "0123456789012345678901234567890123456789"
    touched(snapshot / "unet" / "config.json")
    (snapshot / "model_index.json").write_text(f'{{"_class_name": "{kind}"}}')
    return snapshot


def test_the_usual_places_nearest_first(tmp_path: Path) -> None:
    start = tmp_path / "ai" / "work" / "here"
    start.mkdir(parents=True)
    expected = [
        touched(start / "models" / "checkpoints" / "own.safetensors"),
        touched(tmp_path / "ai" / "models" / "checkpoints" / "above.safetensors"),
        touched(tmp_path / "ai" / "webui" / "models" / "Stable-diffusion" / "sd15" / "anime" / "Deep.SAFETENSORS"),
        touched(tmp_path / "ai" / "webui" / "models" / "Stable-diffusion" / "v1.ckpt"),
        touched(tmp_path / "ComfyUI" / "models" / "checkpoints" / "comfy.safetensors"),
        denoiser(tmp_path / "ComfyUI" / "models" / "diffusion_models" / "krea" / "krea2_raw.safetensors", "krea2_raw"),
        denoiser(tmp_path / "ComfyUI" / "models" / "unet" / "klein.safetensors", "flux2_klein_4b"),
        hub_model(tmp_path / "hub", "runwayml", "stable-diffusion-v1-5"),
    ]
    touched(tmp_path / "ai" / "webui" / "models" / "Lora" / "lora.safetensors")
    touched(tmp_path / "ComfyUI" / "models" / "text_encoders" / "t5xxl.safetensors")
    for other in ("wan22_14b_fp8", "flux2_dev_fp8", "krea2_turbo_int8", "t5xxl_fp16"):
        denoiser(tmp_path / "ComfyUI" / "models" / "diffusion_models" / f"{other}.safetensors", other)
    touched(tmp_path / "ComfyUI" / "models" / "unet" / "cut.safetensors")
    touched(tmp_path / "ComfyUI" / "models" / "unet" / "pickled.ckpt").write_bytes(b"\x80\x02}q\x00.")
    touched(tmp_path / "ai" / "webui" / "models" / "Stable-diffusion" / "notes.txt")
    touched(tmp_path / "ai" / "webui" / "models" / "Stable-diffusion" / "a" / "b" / "c" / "too_deep.ckpt")
    touched(tmp_path / "far" / "off" / "models" / "checkpoints" / "no.ckpt")
    touched(tmp_path / ".hidden" / "models" / "checkpoints" / "no.ckpt")
    hub_model(tmp_path / "hub", "owner", "other", kind="KolorsPipeline")
    found = find_checkpoints(start, {"HF_HUB_CACHE": str(tmp_path / "hub")})
    assert [one for one in found if one.is_relative_to(tmp_path)] == expected


@pytest.mark.parametrize(
    "place",
    [
        "ComfyUI_windows_portable/ComfyUI/models/checkpoints",
        "webui_forge_cu121_torch231/webui/models/Stable-diffusion",
        "StabilityMatrix/Data/Models/StableDiffusion",
    ],
)
def test_packages_for_windows(tmp_path: Path, place: str) -> None:
    file = touched(tmp_path / place / "a.safetensors")
    start = tmp_path / "lorasmith"
    start.mkdir()
    found = find_checkpoints(start, {"HF_HUB_CACHE": str(tmp_path / "none")})
    assert [one for one in found if one.is_relative_to(tmp_path)] == [file]


@pytest.mark.parametrize(
    ("variable", "below"),
    [
        ("HF_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
        ("HOME", ".cache/huggingface/hub"),
    ],
)
def test_the_hubs_cache_by_its_variables(tmp_path: Path, variable: str, below: str) -> None:
    snapshot = hub_model(tmp_path / "x" / below, "owner", "model")
    start = tmp_path / "start"
    start.mkdir()
    assert snapshot in find_checkpoints(start, {variable: str(tmp_path / "x")})


def test_folders_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    file = touched(tmp_path / "models" / "checkpoints" / "a.ckpt")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "link").symlink_to(tmp_path)
    found = find_checkpoints(tmp_path / "gone" / "start", {"HF_HUB_CACHE": str(tmp_path / "none")})
    assert file in found


def test_the_list_is_bounded(tmp_path: Path) -> None:
    for number in range(120):
        touched(tmp_path / "models" / "checkpoints" / f"{number:03d}.ckpt")
    assert len(find_checkpoints(tmp_path, {"HF_HUB_CACHE": str(tmp_path / "none")})) <= 100


# -- CLIP for measuring ----------------------------------------------------------------------------


def clip_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_none_is_named_and_none_is_there(tmp_path: Path) -> None:
    assert locate_clip("", base_model=tmp_path) is None
    (tmp_path / "clip").mkdir()
    assert locate_clip("", base_model=tmp_path) is None
    assert locate_clip("", base_model=tmp_path / "model.safetensors") is None


def test_the_base_model_has_one(tmp_path: Path) -> None:
    own = clip_in(tmp_path / "model" / "clip")
    assert locate_clip("", base_model=tmp_path / "model") == own


def test_the_one_that_is_named_comes_first(tmp_path: Path) -> None:
    clip_in(tmp_path / "model" / "clip")
    other = clip_in(tmp_path / "fashion")
    assert locate_clip(str(other), base_model=tmp_path / "model") == other


def test_a_hub_id_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(name: str, **how: object) -> str:
        asked.append((name, how.get("local_files_only", False)))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert locate_clip("patrickjohncyh/fashion-clip", base_model=tmp_path / "model") == tmp_path
    assert asked == [("patrickjohncyh/fashion-clip", True)]


def test_what_is_neither_is_named(tmp_path: Path) -> None:
    for name in (str(tmp_path / "no where"), "three/part/name"):
        with pytest.raises(ModelError) as caught:
            locate_clip(name, base_model=tmp_path)
        assert (caught.value.code, caught.value.fields["model"]) == ("clip_model", name)


def test_what_cannot_be_reached_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot(name: str, **how: object) -> str:
        raise LocalEntryNotFoundError("offline\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(ModelError) as caught:
        locate_clip("some/clip", base_model=tmp_path)
    assert caught.value.fields["reason"] == "offline"
