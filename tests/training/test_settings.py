import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.training.settings import (
    load_config_file,
    parse_overrides,
    replace_values,
    setting_paths,
    to_plain,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    levels: int = 16
    scale: float = 1.5
    smooth: bool = False
    name: str = "hash"

    def __post_init__(self) -> None:
        if self.levels * self.scale > 1000:
            raise InputError("levels * scale: expected at most 1000.")


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    optional: float | None = None
    downscale: int | Literal["auto"] = "auto"
    kind: Literal["white", "black", 3, True] = "white"
    hidden: tuple[int, ...] = (64, 64)
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    schedule: dict[int, int] = field(default_factory=lambda: {0: 4})
    nested: tuple[tuple[int, float], ...] = ()
    path: Path | None = None
    far: float = math.inf
    maybe: Inner | None = None
    anything: Any = None
    text: str | None = None


def set_one(item: str) -> Outer:
    return replace_values(Outer(), parse_overrides([item]), source="--set")


def test_plain_values_survive_json() -> None:
    original = Outer(
        inner=Inner(levels=3, smooth=True),
        optional=0.25,
        downscale=2,
        kind=3,
        hidden=(1, 2, 3),
        schedule={0: 1, 500: 2},
        nested=((1, 2.0), (3, 4.5)),
        path=Path("a/b"),
        maybe=Inner(name="other"),
        anything=[1, {"a": None}],
        text="none",
    )
    restored = replace_values(Outer(), json.loads(json.dumps(to_plain(original), allow_nan=False)))
    assert restored == original
    assert restored.far == math.inf
    assert type(restored.kind) is int
    assert set(restored.schedule) == {0, 500}


@pytest.mark.parametrize(
    ("item", "path", "expected"),
    [
        ("inner.levels=8", "inner.levels", 8),
        ("inner.levels=1e2", "inner.levels", 100),
        ("inner.levels=-3", "inner.levels", -3),
        ("inner.scale=3", "inner.scale", 3.0),
        ("inner.scale=1e-2", "inner.scale", 0.01),
        ("inner.smooth=true", "inner.smooth", True),
        ("inner.smooth=Off", "inner.smooth", False),
        ("inner.smooth=1", "inner.smooth", True),
        ("inner.name=12", "inner.name", "12"),
        ("inner.name=a=b", "inner.name", "a=b"),
        ("inner.name=", "inner.name", ""),
        ("optional=none", "optional", None),
        ("optional=2", "optional", 2.0),
        ("downscale=4", "downscale", 4),
        ("downscale=auto", "downscale", "auto"),
        ("kind=black", "kind", "black"),
        ("kind=3", "kind", 3),
        ("kind=True", "kind", True),
        ("hidden=32,32,32", "hidden", (32, 32, 32)),
        ("hidden=[16]", "hidden", (16,)),
        ("hidden=[]", "hidden", ()),
        ("colour=0, 0.5, 1", "colour", (0.0, 0.5, 1.0)),
        ("schedule={0: 1, 100: 2}", "schedule", {0: 1, 100: 2}),
        ("schedule={0:8,2000:4}", "schedule", {0: 8, 2000: 4}),
        ("schedule=0:8, 2000:4", "schedule", {0: 8, 2000: 4}),
        ("hidden=16", "hidden", (16,)),
        ("hidden=()", "hidden", ()),
        ("hidden=(16,)", "hidden", (16,)),
        ("nested=[[1, 2], [3, 4]]", "nested", ((1, 2.0), (3, 4.0))),
        ("nested=((1, 2), (3, 4))", "nested", ((1, 2.0), (3, 4.0))),
        ("path=x/y", "path", Path("x/y")),
        ("far=inf", "far", math.inf),
        ("text=null", "text", None),
        ("text=word", "text", "word"),
    ],
)
def test_text_is_read_as_the_fields_type(item: str, path: str, expected: object) -> None:
    value: Any = set_one(item)
    for name in path.split("."):
        value = getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("inner.levels=8.5", "inner.levels takes a whole number, got 8.5"),
        ("inner.levels=true", "inner.levels takes a whole number"),
        ("inner.levels=inf", "inner.levels takes a whole number"),
        ("inner.scale=nan", "inner.scale takes a number, got nan"),
        ("inner.scale=wide", "inner.scale takes a number, got wide"),
        ("inner.smooth=maybe", "inner.smooth takes true or false"),
        ("optional=x", "optional takes a number or none, got x"),
        ("kind=red", "kind takes white or black or 3 or True, got red"),
        ("hidden=wide", "hidden takes a list, each a whole number"),
        ("hidden=64,x", "hidden takes a list"),
        ("colour=1,1", "colour takes 3 values"),
        ("schedule=4", "schedule takes a mapping from a whole number to a whole number"),
        ("schedule=0:8:1", "schedule takes a mapping from a whole number to a whole number"),
        ("schedule={0:8,x:4}", "schedule takes a mapping from a whole number to a whole number"),
        ("inner=3", "inner is a group of settings: name one of them, such as inner.levels"),
        ("inner.levls=3", "unknown setting 'inner.levls'. Did you mean inner.levels?"),
        ("levels=3", "unknown setting 'levels'. Did you mean inner.levels?"),
        ("zzzz=3", "unknown setting 'zzzz'. Known here: inner, optional"),
        ("inner.levels", "expected path=value"),
        ("=3", "expected path=value"),
        ("inner.levels.x=3", "inner.levels takes a whole number"),
    ],
)
def test_what_does_not_fit_is_refused_with_advice(item: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        set_one(item)
    assert message in str(caught.value)
    assert str(caught.value).startswith("--set")
    assert len(str(caught.value)) < 250


def test_checks_see_the_final_combination() -> None:
    # One at a time, levels=500 with the default scale would pass 500 * 1.5 but 500 * 2 would be refused on the way.
    changed = replace_values(Outer(), parse_overrides(["inner.levels=2000", "inner.scale=0.5"]))
    assert changed.inner == Inner(levels=2000, scale=0.5)
    with pytest.raises(InputError, match="at most 1000"):
        set_one("inner.levels=2000")


def test_json_types_are_not_bent() -> None:
    for values in ({"inner": {"levels": True}}, {"inner": {"smooth": 1}}, {"inner": {"name": 3}}, {"kind": 1}):
        with pytest.raises(InputError):
            replace_values(Outer(), values)


def test_the_last_override_wins_and_groups_join() -> None:
    assert parse_overrides(["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": "3", "c": "2"}}
    with pytest.raises(InputError, match="cannot be a group"):
        parse_overrides(["a=1", "a.b=2"])


def test_an_absent_group_can_be_given_and_removed() -> None:
    given = set_one("maybe={levels: 4}")
    assert given.maybe == Inner(levels=4)
    assert replace_values(given, parse_overrides(["maybe=none"])).maybe is None


def test_paths() -> None:
    assert setting_paths(Outer())[:5] == ["inner.levels", "inner.scale", "inner.smooth", "inner.name", "optional"]


@pytest.mark.parametrize("value", [math.nan, object(), {"a": math.nan}])
def test_what_has_no_plain_form_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="cannot hold"):
        to_plain(value)


def test_config_file_nests_dots_and_mixes(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("inner.levels: 4\ninner: {scale: 2}\nschedule: {0: 1, 10: 2}\noptional: 1e-3\n")
    changed = replace_values(Outer(), load_config_file(file), source=str(file))
    assert changed == Outer(inner=Inner(levels=4, scale=2.0), schedule={0: 1, 10: 2}, optional=1e-3)


def test_config_file_may_be_a_record_of_a_run(tmp_path: Path) -> None:
    file = tmp_path / "experiment.json"
    file.write_text(json.dumps({"schema_version": 1, "recipe": "x", "values": to_plain(set_one("inner.levels=7"))}))
    assert replace_values(Outer(), load_config_file(file)) == set_one("inner.levels=7")


def test_empty_config_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("# nothing yet\n")
    assert load_config_file(file) == {}


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, MissingFileError, "there is no such file"),
        (b"a: [1, 2", FormatError, "line 1: not valid YAML"),
        (b"- 1\n- 2\n", FormatError, "expected a mapping"),
        (b"3: 4\n", FormatError, "expected a mapping"),
        (b"\xff\xfe\x00", FormatError, "not UTF-8"),
        (b"!!python/object/apply:os.system ['true']", FormatError, "not valid YAML"),
    ],
)
def test_bad_config_file(tmp_path: Path, content: bytes | None, error: type[Exception], message: str) -> None:
    file = tmp_path / "settings.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(error) as caught:
        load_config_file(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_config_file_may_not_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="readable YAML file"):
        load_config_file(tmp_path)
