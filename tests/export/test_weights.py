import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from voxfield.data.capture_reading import read_capture
from voxfield.data.synthetic import posed_images
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.export.nerfstudio import export_run
from voxfield.export.weights import meaning, read_weights, write_weights
from voxfield.recipes import PHOTOGRAPHS, RECIPES, build_model, data_kind, smallest_model


@pytest.mark.parametrize("recipe", [name for name in RECIPES if data_kind(name) == PHOTOGRAPHS])
def test_every_tensor_is_written_and_explained(recipe, tmp_path):
    config = smallest_model(recipe)
    if recipe == "nerfacto":
        config = replace(config, predict_normals=True, poses="SE3")
    scene = posed_images(count=2, resolution=16)
    model = build_model(recipe, config, scene, 3)
    done = write_weights(tmp_path, model, about={"recipe": recipe})
    state = model.state_dict()
    tensors = load_file(tmp_path / "weights.safetensors")
    assert set(tensors) == {name for name, value in state.items() if isinstance(value, torch.Tensor)}
    assert all(torch.equal(tensors[name], state[name]) for name in tensors)
    listing = json.loads(done.listing.read_text())
    assert listing["recipe"] == recipe
    assert listing["state"] == {name: value for name, value in state.items() if name not in tensors}
    for name, told in listing["tensors"].items():
        assert told["meaning"] == meaning(name)[0] != "a tensor of the model", name
        assert told["shape"] == list(tensors[name].shape)
    other = build_model(recipe, config, scene, 4)
    other.load_state_dict({**read_weights(tmp_path), **listing["state"]})
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in tensors.items())


def test_names_have_their_numbers_in_the_words():
    assert meaning("field.density_nets.5.1") == (
        "layer 1 of the density network of pyramid level 5: (outputs, inputs)",
        "field.mlp_base",
    )
    assert meaning("proposals.1.table")[1] == "proposal_networks.1"
    assert meaning("something.else") == ("a tensor of the model", None)


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(MissingFileError, match="voxfield export nerfstudio"):
        read_weights(tmp_path)
    write_weights(tmp_path, torch.nn.Linear(2, 3))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FormatError, match="cannot be read"):
        read_weights(tmp_path)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(FormatError, match="holds no weights of Voxfield"):
        read_weights(tmp_path)


def test_the_world_says_where_the_files_cameras_are(tmp_path, captures):
    captures.write_llff(tmp_path / "llff", captures.some_cameras(centred=True))
    read = read_capture(tmp_path / "llff")
    done = export_run(read, torch.nn.Linear(2, 3), tmp_path / "llff", tmp_path / "out")
    world = json.loads(done.world.read_text())
    transform = torch.tensor(world["transform"])
    again = read_capture(tmp_path / "out", split="train")
    assert again.names == tuple(f"images/{index:03d}.png" for index in range(9) if index % 8)
    file = json.loads(done.capture.file.read_text())
    poses = {frame["file_path"]: torch.tensor(frame["transform_matrix"]) for frame in file["frames"]}
    for index, name in enumerate(again.names):
        moved = world["scale"] * (transform[:, :3] @ poses[name][:3, 3] + transform[:, 3])
        torch.testing.assert_close(moved, read.cameras.origins[index], atol=1e-4, rtol=1e-4)
        turned = transform[:, :3] @ poses[name][:3, :3]
        torch.testing.assert_close(turned, read.cameras.camera_to_world[index, :, :3], atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="exists already"):
        export_run(read, torch.nn.Linear(2, 3), tmp_path / "llff", tmp_path / "out")
