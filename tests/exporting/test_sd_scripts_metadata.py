import dataclasses
from pathlib import Path

from lorasmith import __version__
from lorasmith.exporting.metadata import ExportFacts, build_metadata, with_hashes
from lorasmith.exporting.sd_scripts_metadata import DescriptionFacts

# The keys of a file that sd-scripts (48d368fa) wrote: SDXL from a single file, two epochs, no --network_args.
THEIRS = set((Path(__file__).parent / "sd_scripts_keys.txt").read_text().split())
NOT_OURS = {"ss_sd_scripts_commit_hash"}  # no commit of theirs made the file
OURS = {"modelspec.hash_sha256", "modelspec.encoder_layer", "modelspec.trigger_phrase"}
FULL = DescriptionFacts(has_all_keys=True, base_model_short_hash="09e2af0a", validation=(100, None))


def written(facts: ExportFacts, description: DescriptionFacts) -> dict[str, str]:
    metadata = build_metadata(dataclasses.replace(facts, description=description))
    return with_hashes(metadata, header=b"", data=b"")


def test_a_file_by_the_names_of_sd_scripts_has_its_keys(facts: ExportFacts) -> None:
    metadata = written(facts, FULL)
    assert metadata.keys() == (THEIRS - NOT_OURS) | OURS
    assert metadata["modelspec.implementation_version"] == f"lorasmith/{__version__}"
    assert all(isinstance(value, str) for value in metadata.values())


def test_held_out_pictures_are_the_validation_split(facts: ExportFacts) -> None:
    metadata = written(facts, FULL)
    found = {key: metadata[f"ss_{key}"] for key in ("validation_split", "validation_seed", "validate_every_n_steps")}
    assert found == {"validation_split": "0.2", "validation_seed": "42", "validate_every_n_steps": "100"}
    without = written(dataclasses.replace(facts, pictures=dataclasses.replace(facts.pictures, held_out=0)), FULL)
    assert (without["ss_validation_split"], without["ss_validate_every_n_steps"]) == ("0.0", "None")


def test_no_metadata_leaves_what_readers_need_to_use_the_file(facts: ExportFacts) -> None:
    """The same six keys as sd-scripts leaves, and the hashes."""
    args = dataclasses.replace(facts, network_args={"conv_dim": "4"})
    metadata = written(args, dataclasses.replace(FULL, is_minimal=True))
    kept = {"v2", "base_model_version", "network_module", "network_dim", "network_alpha", "network_args"}
    assert {key.removeprefix("ss_") for key in metadata if key.startswith("ss_")} == kept
    assert {"sshs_model_hash", "sshs_legacy_hash", "modelspec.architecture"} <= metadata.keys()


def test_descriptions_of_a_person_come_first(facts: ExportFacts) -> None:
    spec = {"title": "Ring", "author": "Ann", "trigger_phrase": "a zorb"}
    metadata = written(facts, DescriptionFacts(comment="third try", model_spec=spec))
    assert metadata["ss_training_comment"] == "third try"
    assert metadata["modelspec.title"] == "Ring" and metadata["modelspec.author"] == "Ann"
    assert metadata["modelspec.trigger_phrase"] == "a zorb"
