"""Checkpoints as files: what is of them, what is damaged, what is kept. Real files and tensors, no training."""

import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.order import EpochPlan
from sa2va_ray.manifest import MANIFEST
from sa2va_ray.models.checkpoint import (
    MODEL,
    OPTIMIZER,
    find_checkpoint,
    list_checkpoints,
    newest_checkpoint,
    read_stored_checkpoint,
    shard_files,
)
from sa2va_ray.models.trained_weights import load_trained_tensors, open_checkpoint
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train import trainer
from sa2va_ray.train.checkpoints.beat import LOCK_FILE
from sa2va_ray.train.checkpoints.changes import RULES, Rule, check_setting_changes, rule_of
from sa2va_ray.train.checkpoints.progress import RunProgress
from sa2va_ray.train.checkpoints.retention import delete_old_checkpoints
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.errors import RunStoppedError
from sa2va_ray.train.step import StepResult
from sa2va_ray.train.validation import validate
from tests.train.saved_runs import DAMAGES, DATA_SHA256, NAMES, NUM_STEPS, damage, run_config, save, tensors_of

DOC = Path(__file__).parents[3] / "docs/en/train.md"


@pytest.fixture
def config(tmp_path):
    return run_config(tmp_path / "runs")


@pytest.fixture
def run_uri(config):
    return f"{config.runs_uri}/run"


def assert_sound(uri, step):
    with open_checkpoint(uri) as checkpoint:
        files = [file for kind in (MODEL, OPTIMIZER) for file in shard_files(checkpoint.folder, kind)]
        found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    expected = tensors_of(step)
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not tensor.equal(found[name])] == []


def test_a_save_that_is_repeated_by_fewer_workers_is_read_as_it_is(tmp_path, config):
    """The files of the four that were cut off are gone, and while they are there nobody reads them."""
    uri = save(tmp_path / "four", 10, config, world_size=4, cut_off=True)
    assert "model-00004-of-00004.safetensors" in storage.list_files(uri)
    assert save(tmp_path / "two", 10, config, world_size=2) == uri
    assert storage.list_files(uri).keys() == {*read_stored_checkpoint(uri).manifest["files"], MANIFEST}
    assert len(shard_files(Path(uri), MODEL)) == 2
    save(tmp_path / "again", 12, run_config(tmp_path / "other"), world_size=4)
    other = tmp_path / "other/run/step_00000012/model-00001-of-00004.safetensors"
    for stale in ("model-00001-of-00004.safetensors", "optimizer-00001-of-00004.safetensors"):
        (Path(uri) / stale).write_bytes(other.read_bytes()[:-1])  # and cut, as a killed upload leaves it
    assert_sound(uri, 10)


def test_the_same_in_a_store(bucket_uri, tmp_path):
    config = run_config(bucket_uri)
    save(tmp_path / "four", 10, config, world_size=4, cut_off=True)
    uri = save(tmp_path / "two", 10, config, world_size=2)
    assert storage.list_files(uri).keys() == {*read_stored_checkpoint(uri).manifest["files"], MANIFEST}
    save(tmp_path / "newer", 20, config)
    storage.write_bytes(f"{bucket_uri}/run/step_00000020/model-00001-of-00002.safetensors", b"cut")
    storage.write_bytes(f"{uri}/model-00003-of-00004.safetensors", b"stale")
    assert find_checkpoint(f"{bucket_uri}/run") == uri


@pytest.mark.parametrize("kind", [*DAMAGES, "a flipped bit of the optimizer"])
def test_a_damaged_end_is_named_and_the_newest_sound_one_is_used(tmp_path, config, run_uri, caplog, monkeypatch, kind):
    """By export (`find_checkpoint`) and by a run that is started again, which is not at its end then."""
    monkeypatch.setattr(LOGGER, "propagate", True)
    for step in (10, 20, NUM_STEPS):
        last = save(tmp_path / "disk", step, config)
    assert trainer._read_newest(run_uri, config, DATA_SHA256).uri == last
    damage(last, kind)
    sound = run_uri + "/step_00000020"
    for find in (lambda: find_checkpoint(run_uri), lambda: trainer._read_newest(run_uri, config, DATA_SHA256).uri):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert find() == sound
        (named,) = {record.getMessage() for record in caplog.records if record.levelno == logging.WARNING}
        assert f"checkpoint {last} is passed over" in named
    assert_sound(sound, 20)
    if "optimizer" not in kind:
        with pytest.raises(UserError), open_checkpoint(last):  # named itself, it is refused
            pass


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_one_in_the_middle_stops_no_save_and_is_no_newest_one(tmp_path, config, run_uri, kind):
    for step in (5, 10, 15):
        save(tmp_path / "disk", step, config)
    damage(f"{run_uri}/step_00000010", kind)
    save(tmp_path / "disk", 20, config)
    delete_old_checkpoints(run_uri, keep_newest=2, keep_best=0, metric="val/dice")
    left = {"step_00000015", "step_00000020"} | ({"step_00000010"} if is_seen_without_reading_all(kind) else set())
    assert {name.partition("/")[0] for name in storage.list_files(run_uri)} == {LOCK_FILE, *left}
    assert newest_checkpoint(run_uri, read_stored_checkpoint).state.step == 20


def test_what_a_deletion_that_was_cut_off_has_left_is_deleted_by_the_next_save(tmp_path, config, run_uri):
    """Its manifest goes first, so that it is in no list of checkpoints any more."""
    for step in (5, 10, 15):
        save(tmp_path / "disk", step, config)
    storage.delete_files(f"{run_uri}/step_00000005", [MANIFEST])
    storage.write_bytes(
        f"{run_uri}/step_00000020/model-00001-of-00002.safetensors", b"another rank's, of a save to come"
    )
    storage.write_bytes(f"{run_uri}/validation/a.webp", b"no checkpoint")
    storage.write_bytes(f"{run_uri}/step_00000010.part/a", b"a copy that somebody makes")
    save(tmp_path / "disk", 17, config)
    left = {f"step_{step:08d}" for step in (10, 15, 17, 20)} | {"validation", "step_00000010.part"}
    assert set(storage.list_folders(run_uri)) == left, "of what is deleted no folder is left either"


def test_a_share_of_the_next_step_is_no_remains_where_a_newer_checkpoint_is_damaged(tmp_path, config, run_uri):
    """The run goes on from before it, and its ranks do not send their shares at the same time."""
    for step in (5, 100):
        save(tmp_path / "disk", step, config)
    share = f"{run_uri}/step_00000020/model-00002-of-00002.safetensors"
    storage.write_bytes(share, b"another rank's")
    save(tmp_path / "disk", 10, config)
    assert storage.exists(share)


def test_a_copy_under_the_name_of_another_step_is_neither_resumed_from_nor_deleted(tmp_path, config, run_uri, caplog):
    saved, later = [save(tmp_path / "disk", step, config) for step in (10, 20)]
    copy = shutil.copytree(saved, Path(run_uri) / "step_00000999")
    with caplog.at_level("WARNING"):
        assert newest_checkpoint(run_uri, read_stored_checkpoint).uri == later
    assert "holds step 10: it was copied or renamed" in caplog.text
    delete_old_checkpoints(run_uri, keep_newest=1, keep_best=0, metric="val/dice")
    assert not Path(saved).exists()
    assert (copy / MANIFEST).exists()


def test_a_copy_of_a_checkpoint_under_another_name_is_peoples_own(tmp_path, config, run_uri):
    copies = [f"{run_uri}/step_00000005_good", f"{run_uri}/keep"]
    for copy in copies:
        shutil.copytree(save(tmp_path / f"disk of {copy[-4:]}", 5, config), copy)
    for step in (10, 15):
        save(tmp_path / "disk", step, config)
    delete_old_checkpoints(run_uri, keep_newest=1, keep_best=0, metric="val/dice")
    assert list_checkpoints(run_uri) == [f"{run_uri}/step_00000015"]
    assert all(read_stored_checkpoint(copy).state.step == 5 for copy in copies)


def test_of_a_link_to_another_runs_checkpoint_the_link_alone_is_deleted(tmp_path, config, run_uri):
    """So a run may begin where another one stands; that one's manifest was deleted with the link."""
    other = save(tmp_path / "other disk", 5, run_config(tmp_path / "runs", "name=other"))
    Path(run_uri).mkdir(parents=True)
    Path(run_uri, "step_00000005").symlink_to(other)
    for step in (10, 15):
        save(tmp_path / "disk", step, config)
    delete_old_checkpoints(run_uri, keep_newest=1, keep_best=0, metric="val/dice")
    assert list_checkpoints(run_uri) == [f"{run_uri}/step_00000015"]
    assert not Path(run_uri, "step_00000005").is_symlink()
    assert read_stored_checkpoint(other).state.step == 5


def test_steps_are_in_order_whatever_their_number_of_digits(run_uri):
    steps = ["step_00000001", "step_99999999", "step_100000000", "step_1000000000"]
    for name in (*steps, "step_000000002", "step_٠٠٠٠٠٠٠٣", "Step_00000004", "step_00000005 "):
        storage.write_bytes(f"{run_uri}/{name}/{MANIFEST}", b"{}")
    assert list_checkpoints(run_uri) == [f"{run_uri}/{name}" for name in steps]


def is_seen_without_reading_all(kind):
    return kind != "a flipped bit"


def test_the_best_is_kept_where_saves_and_validations_differ(tmp_path, run_uri, config):
    """Validated at 4, 8 and 12, saved at 5, 10 and 15: each has the score of the newest validation before it, and of
    two with the same score the one nearest to it is kept."""
    for step, validated, dice in ((5, 4, 0.6), (6, 4, 0.6), (10, 8, 0.5), (15, 12, 0.4)):
        save(tmp_path / "disk", step, config, metrics={"val/dice": dice, "val/step": validated})
    save(tmp_path / "disk", 20, config)
    delete_old_checkpoints(run_uri, keep_newest=1, keep_best=1, metric="val/dice")
    assert [read_stored_checkpoint(uri).state.step for uri in list_checkpoints(run_uri)] == [5, 20]


def test_a_model_that_finds_nothing_is_not_the_best_where_images_without_the_object_are_right(
    tmp_path, run_uri, config
):
    scores = {5: (0.6, 0.0), 10: (0.4, 0.9), 15: (0.7, 0.3), 20: (0.3, 1.0)}
    for step, (dice, seg_share) in scores.items():
        metrics = {"val/dice": dice, "val/seg_share": seg_share, "val/false_alarm_share": 0.5}
        save(tmp_path / "disk", step, config, metrics=metrics)
    delete_old_checkpoints(run_uri, keep_newest=1, keep_best=1, metric="val/dice")
    assert [read_stored_checkpoint(uri).state.step for uri in list_checkpoints(run_uri)] == [10, 20]


@pytest.mark.parametrize("dice", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_not_the_best(tmp_path, run_uri, config, dice):
    for step, score in ((5, 0.6), (10, dice), (15, 0.4), (20, dice)):
        save(tmp_path / "disk", step, config, metrics={"val/dice": score})
    delete_old_checkpoints(run_uri, keep_newest=1, keep_best=1, metric="val/dice")
    assert [read_stored_checkpoint(uri).state.step for uri in list_checkpoints(run_uri)] == [5, 20]


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "../data", "a/b", "a\\b", "a\nb", "a\n", "x\0y", "s3://a", "a" * 129]
)
def test_a_name_that_is_no_folder_of_runs_is_refused(config, name):
    with pytest.raises(ValidationError, match="name"):
        TrainConfig.model_validate(config.model_dump() | {"name": name})


@pytest.mark.parametrize("name", ["octa-8b_v1.2", "Gefäße [fold 3] (2)", "lr=1e-4,seed=0", ".x", "a" * 128])
def test_a_name_that_is_one_is_kept(config, name):
    assert TrainConfig.model_validate(config.model_dump() | {"name": name}).name == name


def test_a_run_with_damaged_checkpoints_alone_has_nothing_to_export(tmp_path, config, run_uri):
    damage(save(tmp_path / "disk", 10, config), "a cut shard")
    with pytest.raises(UserError, match="1 damaged ones are in it"):
        find_checkpoint(run_uri)
    assert trainer._read_newest(run_uri, config, DATA_SHA256) is None


def test_a_sound_checkpoint_of_another_version_is_not_passed_over(tmp_path, config, run_uri, monkeypatch):
    save(tmp_path / "disk", 10, config)
    monkeypatch.setattr("tests.train.saved_runs.TrainState", lambda **values: Other(values))
    save(tmp_path / "disk", 20, config)
    with pytest.raises(UserError, match=r"of another version of sa2va_ray: newer_key"):
        find_checkpoint(run_uri)


class Other(dict):
    def model_dump(self):
        return {**self, "newer_key": 1}


@pytest.mark.parametrize(
    ("names", "shape", "message"),
    [
        (NAMES[1:], (3, 5), r"1 trained tensors are missing \['layer_0.weight'\]"),
        ([*NAMES, "layer_9.weight"], (3, 5), r"1 are unknown \['layer_9.weight'\]"),
        (NAMES, (3, 4), "7 have another shape"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(names, shape, message):
    model = torch.nn.ModuleDict({f"layer_{number}": torch.nn.Linear(5, 3) for number in range(7)})
    for layer in model.values():
        layer.bias.requires_grad_(False)
    with pytest.raises(UserError, match=message):
        load_trained_tensors(model, {name: torch.ones(shape) for name in names}, "checkpoint")
    load_trained_tensors(model, {name: torch.ones(3, 5) for name in NAMES}, "checkpoint")
    assert all(bool((layer.weight == 1).all()) for layer in model.values())


def test_samples_that_were_left_out_before_a_restart_are_named_after_it(tmp_path, config):
    """In the error that ends the run, which may come days later."""
    state = read_stored_checkpoint(save(tmp_path / "disk", 10, config, skipped_samples=2, bad_ids=["a", "b"])).state
    progress = RunProgress.from_state(state)
    assert progress.state_fields()["bad_ids"] == ["a", "b"]
    plan = EpochPlan(
        num_samples=9, repeats=10, seed=0, epoch=0, global_batch_size=4, micro_batch_size=4, rank=0, world_size=1
    )
    result = StepResult({}, num_samples=3, num_skipped=1, skipped_ids=["c"], num_tokens=1, grad_norm=1.0)
    changed = config.model_copy(update={"max_skipped_samples": 2})
    with pytest.raises(RunStoppedError, match=r"3 samples were left out .* Bad were a, b, c"):
        RunProgress.from_state(state).advance(plan, result, changed)
    assert state.bad_ids == ["a", "b"]
    RunProgress.from_state(state).advance(plan, result, config.model_copy(update={"max_skipped_samples": 3}))


def test_a_validation_that_fails_leaves_the_modules_as_they_were():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout())
    model[1].eval()
    paused = validate._paused(model)
    paused.__enter__()
    assert not any(module.training for module in model.modules())
    error = RunStoppedError("a sample that cannot be decoded")
    assert not paused.__exit__(RunStoppedError, error, None)
    assert [module.training for module in model.modules()] == [True, True, False]


REFUSED = [
    (["optim.lr=0.5"], "optim.lr was 0.001, is 0.5", False),
    (["optim.weight_decay=0.5"], "optim.weight_decay was", False),
    (["loss.mask_weight=7"], "loss.mask_weight was 3.0, is 7.0", False),
    (["pipeline.augment.elastic_probability=0.9"], "pipeline.augment.elastic_probability was", False),
    (["model.trainable.lora_rank=3"], r"model.trainable.lora_rank was \d+, is 3", True),
    (["model.architecture.extra=1"], "model.architecture.extra was not given, is 1", True),
    (["repeats=77"], r"repeats was \d+, is 77", True),
    (["num_epochs=9"], "num_epochs was 1, is 9", True),
    (["seed=5"], "seed was 0, is 5", True),
    (["global_batch_size=12"], r"global_batch_size was \d+, is 12", True),
    (["precision=bf16"], "precision was fp32, is bf16", True),
]


@pytest.mark.parametrize(("settings", "message", "is_fixed"), REFUSED)
def test_a_finished_run_is_not_started_again_with_other_settings(
    tmp_path, config, run_uri, settings, message, is_fixed
):
    """Refused by name and with both values; while it is not finished, what is not fixed is taken and told."""
    save(tmp_path / "disk", 20, config)
    changed = run_config(config.runs_uri, *settings)
    if is_fixed:
        with pytest.raises(UserError, match=message):
            trainer._read_newest(run_uri, changed, DATA_SHA256)
    else:
        (change,) = check_setting_changes(trainer._read_newest(run_uri, changed, DATA_SHA256), changed, DATA_SHA256)
        assert change.key == settings[0].partition("=")[0]
    save(tmp_path / "disk", NUM_STEPS, config)
    with pytest.raises(UserError, match=message):
        trainer._read_newest(run_uri, changed, DATA_SHA256)


@pytest.mark.parametrize("step", [20, NUM_STEPS])
def test_other_data_are_refused_and_how_it_is_run_is_free(tmp_path, config, run_uri, step):
    save(tmp_path / "disk", step, config)
    with pytest.raises(UserError, match="data_uri was dddddddddddd, is eeeeeeeeeeee"):
        trainer._read_newest(run_uri, config, "e" * 64)
    autos = ("strategy=auto", "use_gpu=null", "precision=auto", "micro_batch_size=auto")
    is_open = run_config(config.runs_uri, *autos)
    assert check_setting_changes(trainer._read_newest(run_uri, is_open, DATA_SHA256), is_open, DATA_SHA256) == []
    free = run_config(config.runs_uri, "data_uri=moved", "num_workers=3", "save_every_steps=7", "micro_batch_size=1")
    assert trainer._read_newest(run_uri, free, DATA_SHA256).state.step == step


def test_a_run_that_an_older_version_began_goes_on_under_new_names_of_its_keys(tmp_path, config, run_uri):
    save(tmp_path / "one", 10, config)
    saved = trainer._read_newest(run_uri, config, DATA_SHA256)
    settings = {name: value for name, value in saved.settings.items() if name != "compile_layers"}
    old = replace(saved, settings=settings | {"compile_frozen": True})
    (change,) = check_setting_changes(old, config, DATA_SHA256)
    assert str(change) == "compile_layers was True, is False"


def test_a_run_whose_numbers_are_beyond_newer_bounds_goes_on(tmp_path, config, run_uri):
    save(tmp_path / "one", 10, config)
    saved = trainer._read_newest(run_uri, config, DATA_SHA256)
    optim = {**saved.settings["optim"], "max_grad_norm": 1e12, "betas": [1.5, 1.0]}
    beyond = {"save_every_steps": 10**12, "optim": optim}
    old = replace(saved, settings={**saved.settings, **beyond})
    changes = check_setting_changes(old, config, DATA_SHA256)
    assert [str(change) for change in changes] == [
        "optim.betas was [1.5, 1.0], is [0.9, 0.999]",
        "optim.max_grad_norm was 1000000000000.0, is 1.0",
        "save_every_steps was 1000000000000, is 1000",
    ]
    assert old.settings["save_every_steps"] == 10**12
    wrong = replace(saved, settings={**saved.settings, "save_every_steps": "often"})
    with pytest.raises(UserError, match="was written by another version"):
        check_setting_changes(wrong, config, DATA_SHA256)


def test_each_setting_has_a_rule_and_each_rule_a_setting(config):
    """A new key has to be decided on."""
    assert {key.partition(".")[0] for key in RULES} == set(type(config).model_fields)
    values = config.model_dump()
    for key in RULES:
        value = values
        for part in key.split("."):
            value = value[part]
    assert rule_of("pipeline.augment.elastic_probability") is RULES["pipeline"]


def test_the_docs_name_each_setting_that_may_not_always_change(config):
    _, *table = DOC.read_text().split("| settings |")[1].split("\n| ")[1:4]
    named = [set(re.findall(r"`([\w.]+)`", row)) for row in table]
    keys = {key for key in RULES if key != "pipeline"} | {
        f"pipeline.{key}" for key in type(config.pipeline).model_fields
    }
    fixed, until_the_end = ({key for key in keys if rule_of(key) is rule} for rule in (Rule.FIXED, Rule.UNTIL_THE_END))
    assert named == [fixed, until_the_end]
