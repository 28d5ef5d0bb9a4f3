import subprocess
import sys

import numpy as np
import pytest
import torch

from voxfield.errors import InputError, MissingExtraError
from voxfield.render.video import require_video, write_video


def frames(count, height=48, width=64):
    for i in range(count):
        frame = torch.zeros(height, width, 3, dtype=torch.uint8)
        frame[:, : width // 2] = torch.tensor([200, 40, 90], dtype=torch.uint8)
        frame[:, width // 2 :] = 20 * i
        yield frame


def decoded(path):
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return stream.codec_context, float(stream.average_rate), images


def test_frames_come_back(tmp_path):
    assert write_video(tmp_path / "deep" / "a.mp4", frames(10), fps=24) == 10
    codec, rate, images = decoded(tmp_path / "deep" / "a.mp4")
    assert (codec.name, codec.pix_fmt, rate, len(images)) == ("h264", "yuv420p", 24.0, 10)
    assert images[0].shape == (48, 64, 3)
    # Away from the edge between the halves, where the codec keeps colours to a few levels.
    assert np.abs(images[5][24, 10].astype(int) - [200, 40, 90]).max() <= 4
    assert np.abs(images[5][24, 54].astype(int) - 100).max() <= 4
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.mp4"]


def test_colours_are_tagged_bt709(tmp_path):
    write_video(tmp_path / "a.mp4", frames(2), fps=10)
    codec, _, _ = decoded(tmp_path / "a.mp4")
    assert (codec.colorspace, codec.color_range) == (1, 1)


def test_index_is_at_the_front(tmp_path):
    write_video(tmp_path / "a.mp4", frames(3), fps=10)
    content = (tmp_path / "a.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(("height", "width"), [(47, 64), (48, 63), (47, 63), (1, 1), (2, 2)])
def test_odd_and_tiny_sizes_become_even(tmp_path, height, width):
    write_video(tmp_path / "a.mp4", frames(2, height, width), fps=10)
    _, _, images = decoded(tmp_path / "a.mp4")
    assert images[0].shape == (height + height % 2, width + width % 2, 3)


def test_numpy_frames_and_fractional_rates(tmp_path):
    write_video(tmp_path / "a.mp4", (frame.numpy() for frame in frames(3)), fps=23.976)
    _, rate, images = decoded(tmp_path / "a.mp4")
    assert rate == pytest.approx(23.976, abs=1e-3)
    assert len(images) == 3


def test_lower_quality_is_smaller(tmp_path):
    noise = [torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8) for _ in range(4)]
    write_video(tmp_path / "good.mp4", noise, fps=10, quality=10)
    write_video(tmp_path / "poor.mp4", noise, fps=10, quality=45)
    assert (tmp_path / "poor.mp4").stat().st_size < (tmp_path / "good.mp4").stat().st_size / 2


def test_no_frames(tmp_path):
    with pytest.raises(InputError, match=r"a\.mp4: expected at least one frame to write, got none"):
        write_video(tmp_path / "a.mp4", [], fps=10)
    assert [p.name for p in tmp_path.iterdir()] == []


def failing():
    yield from frames(2)
    raise RuntimeError("renderer stopped")


def test_failure_keeps_the_old_video(tmp_path):
    write_video(tmp_path / "a.mp4", frames(2), fps=10)
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(RuntimeError, match="renderer stopped"):
        write_video(tmp_path / "a.mp4", failing(), fps=10)
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_bad_frames(tmp_path):
    good = next(frames(1))
    for bad in (good.float(), good[..., :2], good[0], good[:0]):
        with pytest.raises(InputError, match=r"frame 0: expected \(H, W, 3\) uint8"):
            write_video(tmp_path / "a.mp4", [bad], fps=10)
    with pytest.raises(InputError, match=r"frame 2: expected the size of the first frame \(48, 64, 3\), got \(48, 60"):
        write_video(tmp_path / "a.mp4", [good, good, good[:, :60]], fps=10)
    assert [p.name for p in tmp_path.iterdir()] == []


@pytest.mark.parametrize("options", [{"fps": 0}, {"fps": -1}, {"fps": 1000}, {"fps": 10, "quality": 99}])
def test_bad_settings(tmp_path, options):
    with pytest.raises(InputError, match="expected a value"):
        write_video(tmp_path / "a.mp4", frames(1), **options)


def test_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r'pip install "voxfield\[video\]"'):
        require_video()
    with pytest.raises(MissingExtraError, match=r"voxfield\[video\]"):
        write_video(tmp_path / "a.mp4", frames(1), fps=10)


def test_importing_the_module_does_not_load_pyav():
    code = "import sys, voxfield.render.video, voxfield.render.image; print('av' in sys.modules, 'PIL' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
