"""Configs: files, overrides, and messages that name the wrong key and its cure."""

import re

import pytest
from pydantic import Field

from sa2va_ray.config import Config, UserError
from sa2va_ray.config_keys import NAMES_ELSEWHERE, list_keys
from sa2va_ray.evaluate.config import EvaluateConfig
from sa2va_ray.predict.job.config import PredictConfig
from sa2va_ray.train.config import TrainConfig


class Inner(Config):
    lr: float = Field(1e-3, gt=0)
    warmup: int = 0
    betas: tuple[float, float] | None = None
    is_fast: bool | None = None


class Outer(Config):
    name: str
    optim: Inner = Inner()


def test_later_arguments_win_and_yaml_floats_are_floats(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("name: a\noptim: {lr: 1e-4, warmup: 3}\n")
    config = Outer.load([str(file), "optim.lr=3e-4", "name=b"])
    assert config == Outer(name="b", optim=Inner(lr=3e-4, warmup=3))


def test_an_unknown_key_is_named_with_the_valid_ones():
    with pytest.raises(UserError, match=r"unknown key optim\.learning_rate; valid here: betas, is_fast, lr, warmup"):
        Outer.load(["name=a", "optim.learning_rate=1"])


def test_an_old_key_is_told_its_new_name():
    with pytest.raises(UserError, match="unknown key images; it is called source now"):
        PredictConfig.load(["model=m", "images=i", "out=o"])
    with pytest.raises(UserError, match="unknown key data; it is called data_uri now"):
        EvaluateConfig.load(["model=m", "data=d", "out=o"])
    with pytest.raises(UserError, match="unknown key images; valid here: betas, is_fast, lr, warmup"):
        Inner.load(["images=i"])


def test_all_wrong_values_are_told_at_once():
    with pytest.raises(UserError, match=r"(?s)2 wrong.*name is required.*optim\.lr.*greater than 0 \(got -1\)"):
        Outer.load(["optim.lr=-1"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no config file .*nothing\.yaml"):
        Outer.load([str(tmp_path / "nothing.yaml")])


def test_an_argument_too_long_for_a_path_is_no_file():
    assert len(message("a" * 5000)) < 400


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e999"])
def test_a_number_is_finite(value):
    assert "optim.lr" in message("name=a", f"optim.lr={value}")


@pytest.mark.parametrize("value", ["true", "no", "[true, 1]"])
def test_a_bool_is_no_number(value):
    assert "are no numbers" in message("name=a", f"optim.warmup={value}")
    assert "are no numbers" in message("name=a", f"optim.betas={value}")
    assert Outer.load(["name=a", "optim.is_fast=true"]).optim.is_fast


def test_a_group_cannot_be_set_below_a_value():
    with pytest.raises(UserError, match="name is a single value"):
        Outer.load(["name=a", "name.b=1"])


def message(*arguments):
    """The message of the one line with which a job ends."""
    with pytest.raises(UserError) as caught:
        Outer.load([str(argument) for argument in arguments])
    assert caught.value.__cause__ is None
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name: [a\n", r"a\.yaml is not YAML at line 2, column 1: expected ',' or '\]'"),
        (b"name: a\n  optim: 1\n", r"is not YAML at line 2, column 8: mapping values are not allowed"),
        (b"name: a\n\toptim: 1\n", "is not YAML at line 2, column 1: found character"),
        (b"name: a\nname: b\n", "at line 1, column 1: the key name stands there twice"),
        (b"name: a\noptim:\n  lr: 1\n  warmup: 2\n  lr: 2\n", "at line 3, column 3: the key lr stands there twice"),
        (b"name: !!python/object:os.system a\n", "could not determine a constructor"),
        (b"name: !!int a\n", "is not YAML: ValueError"),
        (b"name: !!timestamp 2026-13-41\n", "is not YAML: ValueError"),
        (b"name: *a\n", "found undefined alias"),
        (b"name: a\x00\n", "special characters are not allowed"),
        (b"a" * 3 + b"[" * 20_000, "not YAML mapping|holds str"),
        (b"name: " + b"[" * 20_000, "is not YAML: RecursionError"),
        ("name: Müller\n".encode("latin-1"), r"a\.yaml is not UTF-8 text \(byte 7\)"),
        ("name: a\n".encode("utf-16"), "is not UTF-8 text"),
        (b"", "is empty: it holds no config keys"),
        (b"- a\n", "holds list, not a YAML mapping"),
    ],
)
def test_a_file_that_is_no_yaml_says_where(tmp_path, content, expected):
    (tmp_path / "a.yaml").write_bytes(content)
    assert re.search(expected, message(tmp_path / "a.yaml"))


def test_merged_keys_and_a_byte_order_mark_are_yaml(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbfname: a\noptim: {<<: &x {lr: 1.0, warmup: 1}, warmup: 2}\n")
    assert Outer.load([str(file)]).optim == Inner(lr=1.0, warmup=2)


@pytest.mark.parametrize("value", ["[a", "{a", "'a", '"a', "*", "@a", "%a", "a: b: c", "!!int a", "`a", "{a: 1, a: 2}"])
def test_an_override_that_is_no_yaml_names_its_key_and_the_cure(value):
    told = message(f"name={value}")
    assert re.match(r"The value of name= is not YAML.*'name=\"\.\.\.\"'", told)
    assert Outer.load([f"name='{value}'"] if "'" not in value else ['name="a"'])


def test_numbers_are_decimal(tmp_path):
    """010 is 8 and 1:30 is 90 to YAML 1.1, and a text of digits was a number that no key of texts takes."""
    (tmp_path / "a.yaml").write_text("name: 0047\noptim: {lr: 007.5e-1, warmup: 010}\n")
    assert Outer.load([str(tmp_path / "a.yaml")]) == Outer(name="0047", optim=Inner(lr=0.75, warmup=10))
    assert Outer.load(["name=1:30"]).name == "1:30"
    (tmp_path / "a.yaml").write_text("name: 2026-11-30\n")
    assert Outer.load([str(tmp_path / "a.yaml")]).name == Outer.load(["name=2026-11-30"]).name == "2026-11-30"
    assert Outer.load(["name=a", "optim.warmup=0x10"]).optim.warmup == 16
    with pytest.raises(UserError, match=r"optim\.warmup: Input should be a valid integer.*got '1:30'"):
        Outer.load(["name=a", "optim.warmup=1:30"])


def test_an_override_is_not_cut_at_a_hash_sign():
    assert Outer.load(["name=/data/prep #2"]).name == "/data/prep #2"
    assert Outer.load(["name=' a '"]).name == " a "
    assert Outer.load(["name=a", "optim.lr=3e-4"]).optim.lr == 3e-4


def test_a_file_with_an_equals_sign_in_its_name_is_a_file(tmp_path):
    (tmp_path / "lr=3.yaml").write_text("name: a\n")
    assert Outer.load([str(tmp_path / "lr=3.yaml")]).name == "a"


def test_an_alias_stands_for_values_of_its_own(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("name: a\noptim: &o {lr: 1.0e-3}\nother: *o\n")

    class Pair(Config):
        name: str
        optim: Inner
        other: Inner

    config = Pair.load([str(file), "optim.lr=0.5"])
    assert (config.optim.lr, config.other.lr) == (0.5, 1e-3)


def test_an_alias_that_holds_itself_is_refused(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("name: a\noptim: &o {lr: 1.0e-3, warmup: *o}\n")
    assert "is not YAML" in message(file, file)


@pytest.mark.parametrize("blank", ["\u00a0", "\u3000"])
def test_a_text_of_blanks_is_an_empty_one(blank):
    assert Outer.load([f"name={blank}"]).name == ""


def test_a_number_without_end_is_told_by_its_length():
    with pytest.raises(UserError, match="got a number of more than 300 digits"):
        Outer.load(["name=0x" + 4500 * "f"])


def test_the_valid_keys_of_a_group_under_a_name_of_the_users_own_are_told():
    class Many(Config):
        groups: dict[str, Inner]

    with pytest.raises(UserError, match=r"unknown key groups\.mine\.rate; valid here: betas, is_fast, lr, warmup"):
        Many.load(["groups.mine.rate=1"])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_have_bounds(seed):
    with pytest.raises(UserError, match="seed: Input should be"):
        TrainConfig.load(["jobs/configs/demo.yaml", "data_uri=d", "runs_uri=r", "name=n", f"seed={seed}"])


@pytest.mark.parametrize(
    ("argument", "question"),
    [
        ("optim.warm_up=1", "warmup. Did you mean optim.warmup?"),
        ("optim.LR=1", "Did you mean optim.lr?"),
        ("lr=1", "Did you mean optim.lr?"),
        ("--name=1", "Did you mean name?"),
        ("--name", "Did you mean name=?"),
        ("jobs/configs/dmo.yaml", "Did you mean jobs/configs/demo.yaml?"),
        ("demo.yml", "Did you mean jobs/configs/demo.yaml?"),
    ],
)
def test_the_nearest_key_or_file_is_asked_for(argument, question):
    assert question in message(argument)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("lerning_rate", "optim.lr"),
        ("optim.learning_rate", "optim.lr"),
        ("batchsize", "micro_batch_size"),
        ("eval_steps", "validation.every_steps"),
        ("model.lora_r", "model.trainable.lora_rank"),
        ("weight_decy", "optim.weight_decay"),
    ],
)
def test_names_of_other_tools_lead_to_ours_and_so_do_their_misspellings(given, meant):
    with pytest.raises(UserError, match=rf"unknown key {given}; .*Did you mean {meant}\?"):
        TrainConfig.load(["jobs/configs/demo.yaml", f"{given}=1"])


def test_names_of_other_tools_lead_to_keys_that_there_are():
    assert set(NAMES_ELSEWHERE.values()) <= set(list_keys(TrainConfig))


def test_what_is_near_to_nothing_is_not_guessed_at():
    assert message("name=a", "zebra=1").endswith("unknown key zebra; valid here: name, optim")


def test_a_group_is_no_value_and_a_folder_no_file(tmp_path):
    assert "optim is a group of keys, betas, is_fast, lr, warmup, and no value 1" in message("name=a", "optim=1")
    assert f"{tmp_path} is a folder, no config file" in message(tmp_path)
    assert "optim.= names no key" in message("optim.=1")


def test_a_pattern_comes_with_its_meaning_and_no_value_is_called_nothing():
    with pytest.raises(UserError, match=r"name: String should match .* It is: Name of the run"):
        TrainConfig.load(["jobs/configs/demo.yaml", "name=a/b"])
    assert "name: Input should be a valid string (got nothing)" in message("name=")
    for taken, as_what in (("47", "47"), ("no", "False")):
        told = f"name: Input should be a valid string (got {as_what}). In quotes it is a text: 'name=\"...\"'"
        assert told in message(f"name={taken}")
    assert Outer.load(['name="47"']).name == "47"
