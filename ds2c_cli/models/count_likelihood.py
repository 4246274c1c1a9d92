"""The mathematics of counts: the negative binomial likelihood, and what logs of counts come to and vary by."""

from __future__ import annotations

import math

import torch

from ..schema import TARGET_SUM

# Of t in `expected_log`. The integrand is negligible outside, and so smooth that steps of 1 in log t leave an error
# under 0.1 %.
NODES = tuple(math.exp(power) for power in range(-14, 3))

TAIL = 1e-4  # of the probability, which is counted as if it were all at the last count reached
EXACT = 64  # counts that are gone through one by one
STEPS = 128  # in log k, over the counts beyond

TRUSTED = 10 * 0.1**2  # ten spots of totals that differ by a tenth


def log_negative_binomial(
    counts: torch.Tensor, *, mean: torch.Tensor, inverse_dispersion: torch.Tensor
) -> torch.Tensor:
    """Give the log probability of counts by the negative binomial.

        log P(k) = lgamma(k + n) - lgamma(n) - lgamma(k + 1) + n log(n / (n + m)) + k log(m / (n + m))

    with mean m and inverse dispersion n, so that the variance is m + m^2 / n (NB2 in Hilbe, Negative Binomial
    Regression, 2011; scVI has it so for counts of cells, Lopez et al., Nature Methods 2018).

    Args:
        counts: k, at least 0.
        mean: m, above zero.
        inverse_dispersion: n, above zero; the Poisson distribution as it grows.

    Returns: the natural logarithm; the three are broadcast against each other.
    """
    both = torch.log(inverse_dispersion + mean)
    return (
        torch.lgamma(counts + inverse_dispersion)
        - torch.lgamma(inverse_dispersion)
        - torch.lgamma(counts + 1)
        + inverse_dispersion * (torch.log(inverse_dispersion) - both)
        + counts * (torch.log(mean) - both)
    )


def expected_log(mean: torch.Tensor, *, total: torch.Tensor) -> torch.Tensor:
    """Give E[log1p(1e4 k / total)] for Poisson counts k: what the log of the counts found is compared with.

    The log of the mean is not the mean of the log, least of all for a gene that is seen in a tenth of its cells. By
    Frullani's integral

        log1p(x) = int_0^inf (1 - exp(-x t)) exp(-t) dt / t,    E[exp(-s k)] = exp(m (exp(-s) - 1)),

    so that E = int (1 - exp(m (exp(-1e4 t / total) - 1))) exp(-t) dt / t, summed by the trapezoidal rule in log t
    (Gradshteyn and Ryzhik, Table of Integrals, 3.434; the second is the Poisson's Laplace transform).

    Args:
        mean: (n, G) m, of the counts.
        total: (n, 1) counts of all genes, which the share is of.

    Returns: (n, G), within 0.1 %.
    """
    scale = TARGET_SUM / total.clamp(min=1e-6)
    value = torch.zeros_like(mean)
    for node in NODES:
        value = value - math.exp(-node) * torch.expm1(mean * torch.expm1(-scale * node))
    return value


def predictive_sd(mean: torch.Tensor, *, total: torch.Tensor, inverse_dispersion: torch.Tensor) -> torch.Tensor:
    """Give the SD of log1p(1e4 k / total) for negative binomial counts k.

        SD^2 = sum_k P(k) f(k)^2 - (sum_k P(k) f(k))^2,    f(k) = log1p(1e4 k / total),

    count after count by the recurrence of P (Johnson, Kemp and Kotz, Univariate Discrete Distributions, chapter 5)

        P(0) = (n / (n + m))^n,    P(k) = P(k - 1) * m / (n + m) * (k - 1 + n) / k,

    for the genes that have any probability left; what is left beyond EXACT counts is integrated over log k.

    Args:
        mean: (n, G) of the counts.
        total: (n, 1) counts of all genes, which the share is of.
        inverse_dispersion: (G,) of each gene.

    Returns: (n, G), within 2 %.
    """
    found, genes = torch.zeros_like(mean), torch.arange(mean.shape[1], device=mean.device)
    size = inverse_dispersion
    chance = torch.exp(size * (torch.log(size) - torch.log(size + mean)))  # of a count of 0
    again, left = mean / (size + mean), 1 - chance
    first, second = torch.zeros_like(mean), torch.zeros_like(mean)
    for count in range(1, EXACT + 1):
        chance = chance * again * (count - 1 + size) / count
        left = left - chance
        log = torch.log1p(TARGET_SUM * count / total)
        first, second = first + chance * log, second + chance * log**2
        done = ~(left > TAIL).any(0)
        if done.any():
            rest = left[:, done].clamp(min=0)
            found[:, genes[done]] = _sd(1, first[:, done] + rest * log, second[:, done] + rest * log**2)
            genes, size = genes[~done], size[~done]
            chance, again, left, first, second = (part[:, ~done] for part in (chance, again, left, first, second))
        if not len(genes):
            return found
    beyond = _moments_beyond(mean[:, genes].double(), total=total.double(), inverse_dispersion=size.double())
    parts = (part + more for part, more in zip((1 - left, first, second), beyond, strict=True))
    found[:, genes] = _sd(*parts).to(found.dtype)
    return found


def reliability(predicted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Fit the slope of found on predicted log totals, by which predicted ones are shrunk to their mean.

        slope = (sum_s p_s f_s + T) / (sum_s p_s^2 + T),    p and f less their means,

    as if TRUSTED = T further spots had followed their predictions exactly: a slope of three spots says next to nothing
    (ridge regression towards 1, Hoerl and Kennard, Technometrics 1970).

    Args:
        predicted: (n, 1) log totals of held-out spots by the model.
        found: (n, 1) those that were counted.

    Returns: a number from 0, nothing is told, to 1.
    """
    both = torch.cat([predicted, found], 1)
    predicted, found = (both - both.mean(0)).T
    slope = ((predicted * found).sum() + TRUSTED) / ((predicted**2).sum() + TRUSTED)
    return slope.clamp(0, 1)


def _moments_beyond(
    mean: torch.Tensor, *, total: torch.Tensor, inverse_dispersion: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Integrate over counts above EXACT, by the midpoint rule in log k: probability, sums of the log and its square.

    Returns: three of (n, G).
    """
    relative = (1 / mean + 1 / inverse_dispersion).sqrt()
    low = (mean * torch.exp(-10 * relative)).clamp(min=EXACT + 0.5)
    high = torch.maximum(mean * (1 + 12 * relative + 40 / inverse_dispersion), 2 * low)
    step = torch.log(high / low) / STEPS
    chance, first, second = torch.zeros_like(mean), torch.zeros_like(mean), torch.zeros_like(mean)
    for number in range(STEPS):
        count = low * torch.exp((number + 0.5) * step)
        log_chance = log_negative_binomial(count, mean=mean, inverse_dispersion=inverse_dispersion)
        here = log_chance.exp() * count * step
        log = torch.log1p(TARGET_SUM * count / total)
        chance, first, second = chance + here, first + here * log, second + here * log**2
    return chance, first, second


def _sd(chance: torch.Tensor | float, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Give the SD by the probability gone through and the sums of values and of their squares."""
    return (second / chance - (first / chance) ** 2).clamp(min=0).sqrt()
