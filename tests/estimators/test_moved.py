"""Rows as they would be at other latents, what the latents do not say left as it is."""

import numpy as np
import pandas as pd
import torch

from skvae import VAE
from skvae.data.batch import Batch


def mixed(n=400):
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "a": z + 0.3 * rng.normal(size=n),
            "b": -z + 0.3 * rng.normal(size=n),
            "count": rng.poisson(np.exp(1 + 0.5 * z)),
            "flag": z + rng.normal(size=n) > 0,
            "level": pd.Categorical(np.array(["x", "y", "z"])[rng.integers(0, 3, n)]),
        }
    )
    frame.loc[::9, "b"] = np.nan
    return frame


def test_at_their_own_latents_rows_stay_what_they_are():
    frame = mixed()
    vae = VAE(max_epochs=5, random_state=0).fit(frame)
    rows = vae._rows(frame)
    z = vae._means(rows)
    same = vae._moved(rows, z, z, torch.Generator().manual_seed(0))
    pd.testing.assert_frame_equal(same.drop(columns="b"), frame.drop(columns="b"), rtol=1e-3, atol=1e-3)
    known = frame["b"].notna()
    np.testing.assert_allclose(same["b"][known], frame["b"][known], atol=1e-3)
    assert same["b"].notna().all()  # what is missing is drawn


def test_normal_entries_keep_their_standardised_residual():
    """x′ = μ(z′) + σ(z′) (x − μ(z)) / σ(z)."""
    frame = mixed()[["a", "b"]].fillna(0.0)
    vae = VAE(likelihood="gaussian", max_epochs=5, random_state=0).fit(frame)
    rows = vae._rows(frame)
    z = vae._means(rows)
    there = z + 0.5 * torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    moved = vae._moved(rows, z, there, torch.Generator().manual_seed(0))
    (one, other), scale = (vae.model_.decode(x.unsqueeze(0)) for x in (z, there)), vae.schema_.modelled
    with torch.no_grad():
        steps = (other.mean - one.mean)[0].numpy()  # σ is shared, and cancels
    expected = frame.to_numpy() + steps * np.array([column.scale for column in scale])
    lower, upper = ([getattr(column, end) for column in scale] for end in ("lower", "upper"))
    np.testing.assert_allclose(moved.to_numpy(), np.clip(expected, lower, upper), atol=5e-3)


def test_discrete_entries_follow_the_distribution_at_the_other_latents():
    """Rows drawn at known latents, of which the levels are uniform, and moved to one place."""
    n = 4000
    vae = VAE(max_epochs=5, latent_dim=2, random_state=0).fit(mixed())
    stream = torch.Generator().manual_seed(2)
    z, place = torch.randn((n, 2), generator=stream), torch.tensor([[0.5, -1.0]])
    with torch.no_grad():
        drawn = vae.model_.decode(z.unsqueeze(0)).icdf(torch.rand((1, n, 5), generator=stream))[0]
        there = vae.model_.decode(place.unsqueeze(0))
    moved = vae._moved(Batch(drawn), z, place.expand(n, 2), stream)
    names = [column.name for column in vae.schema_.modelled]
    for name, code in (("level", moved["level"].cat.codes), ("flag", moved["flag"].astype(int))):
        with torch.no_grad():
            expected = [float(there.cdf(torch.full((1, 5), float(k)))[0, 0, names.index(name)]) for k in range(2)]
        shares = [(code <= k).mean() for k in range(2)]
        np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / np.sqrt(n))
