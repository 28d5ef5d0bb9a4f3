"""Whole models on the reference kernels and on the fast ones."""

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch

import voxfield.kernels
from voxfield.data.ray_batches import RaySampler
from voxfield.data.synthetic import posed_images
from voxfield.models.base import Model
from voxfield.recipes import build_model, smallest_model

SAMPLED_APART = ("grid-ngp", "nerfacto")
"""Recipes that use kernels differently; the others are sizes of these."""


@contextmanager
def reference_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, every kernel that chooses an implementation chooses the reference."""
    with monkeypatch.context() as patch:
        for kernel in pkgutil.iter_modules(voxfield.kernels.__path__):
            if kernel.ispkg:
                api = importlib.import_module(f"voxfield.kernels.{kernel.name}.api")
                patch.setattr(api, "resolve", lambda *_args, **_options: "reference")
        yield


def trained(recipe: str) -> tuple[Model, Any]:
    """A model that has seen a few batches, so that its densities and colours vary, and its capture."""
    captures = posed_images(count=4, resolution=24)
    model = build_model(recipe, smallest_model(recipe), captures, 0)
    optimiser = torch.optim.Adam(cast(torch.nn.Module, model).parameters(), lr=1e-2)
    with RaySampler(captures, 0) as batches:
        for step in range(12):
            generator = torch.Generator().manual_seed(step)
            model.before_step(step, step / 12, generator)
            batch = batches.sample(min(256, model.batch_size()), step)
            optimiser.zero_grad()
            model.training_step(batch, step, generator).loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model, captures


@pytest.mark.parametrize("recipe", SAMPLED_APART)
def test_the_same_picture_on_reference_and_fast_kernels(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, captures = trained(recipe)
    background = torch.ones(3)
    fast = model.render_image(captures.cameras, 1, background=background)
    with reference_kernels(monkeypatch):
        plain = model.render_image(captures.cameras, 1, background=background)
    assert fast["rgb"].std() > 0.01, "a picture without structure shows no difference"
    torch.testing.assert_close(fast["rgb"], plain["rgb"], atol=1e-4, rtol=0)
    torch.testing.assert_close(fast["opacity"], plain["opacity"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("recipe", SAMPLED_APART)
def test_the_same_loss_and_gradients_on_reference_and_fast_kernels(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, captures = trained(recipe)
    module = cast(torch.nn.Module, model)
    with RaySampler(captures, 0) as batches:
        batch = batches.sample(64, 100)

    def loss_and_gradients() -> tuple[float, dict[str, torch.Tensor]]:
        module.zero_grad()
        loss = model.training_step(batch, 100, torch.Generator().manual_seed(1)).loss
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), {
            name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None
        }

    state = {name: value.clone() for name, value in module.state_dict().items()}
    loss, gradients = loss_and_gradients()
    module.load_state_dict(state)
    with reference_kernels(monkeypatch):
        plain_loss, plain_gradients = loss_and_gradients()
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in gradients.items():
        # As a whole: a hidden unit that rounding switches on or off changes single entries by a lot.
        plain = plain_gradients[name]
        assert (gradient - plain).norm() <= 0.02 * plain.norm(), name
