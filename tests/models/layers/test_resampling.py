import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mlp_backbones.models.layers import build_resampling_matrix, resample
from mlp_backbones.models.layers.resampling import make_matrices, resampling_matrices

length = st.integers(1, 60)
kernel = st.sampled_from(['bilinear', 'bicubic'])


@given(length, length, kernel)
def test_rows_sum_to_one_and_native_size_is_the_identity(n, m, interpolation):
    matrix = build_resampling_matrix(n, m, interpolation)
    assert matrix.shape == (m, n)
    torch.testing.assert_close(matrix.sum(1), torch.ones(m, dtype=torch.float64))
    assert torch.equal(
        build_resampling_matrix(n, n, interpolation), torch.eye(n, dtype=torch.float64)
    )


@given(length, length, kernel)
def test_upsampling_is_torchs_interpolation(n, m, interpolation):
    n, m = sorted((n, m))
    columns = torch.eye(n, dtype=torch.float64).reshape(1, n, n, 1)  # channel c is unit vector c
    expected = F.interpolate(columns, (m, 1), mode=interpolation, align_corners=False)
    matrix = build_resampling_matrix(n, m, interpolation)
    torch.testing.assert_close(matrix, expected[0, :, :, 0].t(), rtol=0, atol=1e-10)


@given(length, length, kernel)
def test_downsampling_is_the_normalised_adjoint(n, m, interpolation):
    m, n = sorted((n, m))
    adjoint = build_resampling_matrix(m, n, interpolation).t()
    matrix = build_resampling_matrix(n, m, interpolation)
    torch.testing.assert_close(matrix, adjoint / adjoint.sum(1, keepdim=True))


@given(st.tuples(length, length), st.tuples(length, length), kernel)
def test_a_map_is_resampled_by_the_kronecker_product(size, new_size, interpolation):
    x = torch.randn(2, *size, 3, dtype=torch.float64)
    rows, columns = (
        build_resampling_matrix(n, m, interpolation) for n, m in zip(size, new_size, strict=True)
    )
    expected = torch.einsum('ph,qw,bhwc->bpqc', rows, columns, x)
    torch.testing.assert_close(resample(x, new_size, interpolation), expected)


def test_the_cached_matrix_follows_dtype_and_serves_training_after_inference():
    x = torch.randn(1, 5, 5, 2, requires_grad=True)
    with torch.inference_mode():
        resample(torch.randn(1, 5, 5, 2), (9, 9))
    resample(x, (9, 9)).sum().backward()
    assert x.grad is not None
    assert resample(x.bfloat16(), (9, 9)).dtype == torch.bfloat16
    (down, up), again = (resampling_matrices(9, 5, 'bilinear', x) for _ in range(2))
    assert up is again[1] and down is again[0]
    torch.testing.assert_close(up[0], build_resampling_matrix(5, 9).float())
    torch.testing.assert_close(down[0], build_resampling_matrix(9, 5).float())


@given(st.lists(length, min_size=1, max_size=4), st.integers(1, 14), kernel)
def test_matrices_of_many_lengths_are_those_of_each(lengths, g, interpolation):
    n, longest = torch.tensor(lengths)[:, None, None], max(lengths) + 3
    down, up = make_matrices(n, longest, g, interpolation, torch.empty(0))
    for i, m in enumerate(lengths):
        for ours, one in (
            (down[i, :, :m], build_resampling_matrix(m, g, interpolation)),
            (up[i, :m], build_resampling_matrix(g, m, interpolation)),
        ):
            torch.testing.assert_close(ours, one.float(), rtol=1e-5, atol=1e-6)
        assert not down[i, :, m:].any() and not up[i, m:].any()


def test_gradients_are_exact():
    x = torch.randn(1, 3, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resample(x, (7, 2), 'bicubic'), x)


@pytest.mark.skipif(torch.__version__ < '2.6', reason='torch 2.1 does not compile this')
@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_compiled_and_exported_code_leaves_no_fake_tensor_in_the_cache(interpolation):
    class Resample(torch.nn.Module):
        def forward(self, x):
            return resample(x, (11, 4), interpolation)

    x = torch.randn(1, 6, 9, 2)
    exported = torch.export.export(Resample(), (x,)).module()
    torch.testing.assert_close(exported(x), resample(x, (11, 4), interpolation))
