"""GPTQ of one matrix, compared with the update of optimal brain quantization in numpy."""

import numpy as np
import pytest
import torch

from tgi.backend import GptqSettings, ModelError
from tgi_torch.gptq.solver import product_error, quantize_by_gptq, round_to_nearest

INPUTS, OUTPUTS, GROUP = 48, 6, 16


def problem(seed=0):
    """Weights and correlated calibration inputs in float64."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(INPUTS, INPUTS)) * np.exp(random.normal(size=INPUTS))[:, None]
    return random.normal(size=(OUTPUTS, INPUTS)), random.normal(size=(200, INPUTS)) @ mixing


def reference(weights, inputs, result, settings):
    """The codes of optimal brain quantization (arXiv 2208.11580, equation 7) in the order of the
    solver, with the solver's scales. The inverse is computed again for each input.
    """
    hessian = inputs.T @ inputs
    order = np.argsort(-np.diag(hessian).astype(np.float32), kind="stable")
    hessian = hessian + np.eye(INPUTS) * settings.damping * np.diag(hessian).mean()
    left, weights, codes = list(order), weights.copy(), np.zeros(weights.shape)
    top = (1 << settings.bits) - 1
    while left:
        column = left[0]
        inverse = np.linalg.inv(hessian[np.ix_(left, left)])
        group = int(result.groups[column])
        scale, zero = (part[:, group].double().numpy() for part in (result.scales, result.zeros))
        codes[:, column] = np.clip(np.round(weights[:, column] / scale + zero), 0, top)
        error = weights[:, column] - scale * (codes[:, column] - zero)
        weights[:, left] -= np.outer(error / inverse[0, 0], inverse[0])
        left.pop(0)
    return codes


@pytest.mark.parametrize("has_order", [False, True])
@pytest.mark.parametrize(("bits", "is_symmetric"), [(4, True), (4, False), (3, True), (8, False)])
def test_codes_are_those_of_optimal_brain_quantization(bits, is_symmetric, has_order):
    weights, inputs = problem()
    settings = GptqSettings(bits, GROUP, is_symmetric, has_order)
    hessian = torch.from_numpy(inputs.T @ inputs).float()
    result = quantize_by_gptq(torch.from_numpy(weights).float(), hessian, settings)
    expected = reference(weights, inputs, result, settings)
    # Rounding of float32 may move a value over the border between two codes.
    assert (result.codes.numpy() != expected).mean() < 0.02
    assert abs(result.codes.numpy() - expected).max() <= 1


@pytest.mark.parametrize("has_order", [False, True])
@pytest.mark.parametrize("group_size", [16, 24, 32, None])
def test_the_error_is_smaller_than_that_of_rounding_to_nearest(group_size, has_order):
    for seed in range(5):
        weights, inputs = (torch.from_numpy(array).float() for array in problem(seed))
        hessian = inputs.T @ inputs
        settings = GptqSettings(3, group_size, has_order=has_order)
        solved = quantize_by_gptq(weights, hessian, settings).dequantize()
        nearest = round_to_nearest(weights, settings).dequantize()
        own = product_error(weights, solved, hessian)
        assert own < 0.7 * product_error(weights, nearest, hessian)
        exact = ((weights - solved) @ inputs.T).square().sum().item()
        assert own == pytest.approx(exact, rel=1e-3)


def test_groups_follow_the_settings():
    weights, inputs = (torch.from_numpy(array).float() for array in problem())
    hessian = inputs.T @ inputs
    adjacent = quantize_by_gptq(weights, hessian, GptqSettings(4, GROUP))
    assert adjacent.groups.tolist() == [place // GROUP for place in range(INPUTS)]
    ordered = quantize_by_gptq(weights, hessian, GptqSettings(4, GROUP, has_order=True))
    order = hessian.diagonal().argsort(descending=True)
    assert ordered.groups[order].tolist() == adjacent.groups.tolist()


def test_inputs_that_are_always_zero_and_a_singular_hessian():
    weights, inputs = (torch.from_numpy(array).float() for array in problem())
    inputs = inputs[:3]
    inputs[:, 5] = 0
    result = quantize_by_gptq(weights, inputs.T @ inputs, GptqSettings(4, GROUP))
    assert result.dequantize().isfinite().all()
    nothing = quantize_by_gptq(weights, torch.zeros(INPUTS, INPUTS), GptqSettings(4, GROUP))
    assert (nothing.dequantize() - weights).abs().max() < 0.4


def test_activations_that_are_not_finite_are_rejected():
    hessian = torch.full((INPUTS, INPUTS), torch.nan)
    with pytest.raises(ModelError, match="not finite"):
        quantize_by_gptq(torch.zeros(OUTPUTS, INPUTS), hessian, GptqSettings())
