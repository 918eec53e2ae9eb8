"""What a probe measures, and that it changes nothing."""

import pytest

from lorasmith.errors import ExitCode, InputError
from lorasmith.planning.estimate import ProbeResult, Unmeasured
from tests.end_to_end.trial import tried
from tests.end_to_end.workshop import Values, Workshop, tree

EVALUATED: Values = {("cadence", "save_every"): 2, ("evaluation", "every"): None, ("evaluation", "examples"): 2}


@pytest.fixture
def own_cache(workshop: Workshop) -> Workshop:
    """As the first time in a folder: nothing is encoded yet."""
    (workshop.folder / ".lorasmith_cache").unlink()
    return workshop


@pytest.mark.ci
def test_what_a_trial_measures(own_cache: Workshop) -> None:
    made = tried(own_cache.start_new(5, EVALUATED))
    one = made.measured
    assert isinstance(one, ProbeResult)
    assert one.pictures_to_encode == 7
    assert one.step_seconds > 0 and one.picture_seconds > 0 and one.evaluation_seconds is not None
    assert own_cache.new(5, EVALUATED).exit_code == ExitCode.FINISHED
    state = own_cache.state_folder()
    assert one.export_bytes == pytest.approx(own_cache.run.export("last").stat().st_size, rel=0.01)
    assert 0 < one.first_state_bytes < one.state_bytes
    assert one.state_bytes == pytest.approx(sum(path.stat().st_size for path in state.iterdir()), rel=0.01)


def test_a_damaged_file_of_the_cache_stays_where_it_is(own_cache: Workshop) -> None:
    assert own_cache.new(1).exit_code == ExitCode.FINISHED
    file = sorted((own_cache.folder / ".lorasmith_cache" / "latents").iterdir())[0]
    file.write_bytes(file.read_bytes()[:-1])
    before = tree(own_cache.folder)
    made = tried(own_cache.start_new(1))
    assert tree(own_cache.folder) == before
    assert isinstance(made.measured, ProbeResult)
    assert made.measured.pictures_to_encode == 1


def test_what_the_worker_refuses_is_refused(workshop: Workshop) -> None:
    start = workshop.start_new(5, {("optimizer", "options"): {"bias": True}})
    before = tree(workshop.folder)
    with pytest.raises(InputError, match="optimizer_unknown_option"):
        tried(start)
    assert tree(workshop.folder) == before


def test_a_trial_that_fails_leaves_a_plan_without_time(workshop: Workshop) -> None:
    made = tried(workshop.start_new(5, {("optimizer", "lr"): 1e30}))
    assert isinstance(made.measured, Unmeasured)
    assert made.measured.code in ("non_finite", "non_finite_weights", "weights_non_finite")
    assert (made.time, made.disk, made.pictures) == (None, None, 7)
