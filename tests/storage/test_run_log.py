import math
from pathlib import Path

import numpy as np
import pytest
import torch

from voxfield.errors import FormatError, MissingFileError
from voxfield.storage.json_values import json_values
from voxfield.storage.run_log import read_log


def test_reads_a_run_directory_or_its_file(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"kind":"start"}\n{"kind":"train","step":1}\n')
    expected = [{"kind": "start"}, {"kind": "train", "step": 1}]
    assert read_log(tmp_path) == expected
    assert read_log(tmp_path / "log.jsonl") == expected


@pytest.mark.parametrize("cut", ['{"kind":"tra', '{"kind"', "\ufffd", "[1, 2]", "17"])
def test_cut_lines_are_left_out_at_the_end_and_within(tmp_path, cut):
    (tmp_path / "log.jsonl").write_text('{"kind":"start"}\n' + cut)
    assert read_log(tmp_path) == [{"kind": "start"}]
    (tmp_path / "log.jsonl").write_text(cut + '\n{"kind":"start"}\n')
    assert read_log(tmp_path) == [{"kind": "start"}]


def test_line_cut_inside_a_character(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'{"kind":"start"}\n{"kind":"event","message":"caf\xc3')
    assert read_log(tmp_path) == [{"kind": "start"}]


def test_empty_file_has_no_lines(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    assert read_log(tmp_path) == []


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(MissingFileError, match=r"log\.jsonl: expected the log of a run"):
        read_log(tmp_path)
    (tmp_path / "log.jsonl").write_bytes(b"\x00\x01binary")
    with pytest.raises(FormatError, match="no line can be read"):
        read_log(tmp_path)


def test_json_values_cover_what_code_logs():
    value = {
        "tensor": torch.tensor(1.5),
        "vector": torch.tensor([1, 2]),
        "numpy": np.float32(2.0),
        "nan": math.nan,
        "infinite": torch.tensor(math.inf),
        "path": Path("a") / "b",
        3: (True, None),
        "other": torch.float32,
    }
    assert json_values(value) == {
        "tensor": 1.5,
        "vector": [1, 2],
        "numpy": 2.0,
        "nan": None,
        "infinite": None,
        "path": "a/b",
        "3": [True, None],
        "other": "torch.float32",
    }
