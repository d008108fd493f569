r"""A stream whose tokens come in groups: mean vectors of the groups and covariance within them.

Moments of the weights describe their effect on random directions. Trained weights are aligned with
the directions that they read, so these directions are propagated here. A token of group c, which
has probability :math:`p_c`, is

.. math:: x = m_c + \epsilon, \quad Cov\,\epsilon = R, \quad
    E_{i \ne j}[x_i x_j^T] = X

where matrices are over features. Dense layers act on p, m, R and X exactly.

Source: derived here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dslm.spec import Floats


@dataclass(frozen=True, slots=True)
class Mixture:
    """Moments of a stream of d features whose tokens come in groups.

    Attributes:
        shares: (groups,) p, each group's share of the tokens; they add up to 1.
        means: (groups, d) m, each group's mean vector.
        within: (d, d) R, the covariance within a group, the same for all groups.
        cross: (d, d) X, E[x_i x_j^T] over pairs of different tokens of a sequence.
    """

    shares: Floats
    means: Floats
    within: Floats
    cross: Floats

    @property
    def mean(self) -> Floats:
        """The mean vector over all tokens, (d,)."""
        return np.asarray(self.shares @ self.means)

    @property
    def second_moment(self) -> Floats:
        """E[x x^T] over tokens, (d, d)."""
        return _between(self.shares, self.means, self.means) + self.within

    @property
    def variance(self) -> float:
        """E[x²] - (E x)² over tokens and features."""
        return float(np.trace(self.second_moment) / len(self.second_moment) - self.mean.mean() ** 2)

    @property
    def correlation(self) -> float:
        """Token correlation, as `dslm.Curve` has it."""
        between = np.trace(self.cross) / len(self.cross) - self.mean.mean() ** 2
        return float(between / self.variance)


@dataclass(frozen=True, slots=True)
class BranchInput:
    """A branch's input y, and its covariance with the stream x that it is made of.

    Attributes:
        x: moments of the input.
        stream: moments of the stream.
        with_stream: (d, d) covariance of y and x within a group, at one token.
        cross_with_stream: (d, d) E[y_i x_j^T] over pairs of different tokens.
    """

    x: Mixture
    stream: Mixture
    with_stream: Floats
    cross_with_stream: Floats

    @property
    def stream_mean(self) -> Floats:
        """The mean vector of the stream, (d,)."""
        return self.stream.mean

    @property
    def token_with_stream(self) -> Floats:
        """E[y x^T] at one token, (d, d)."""
        return _between(self.x.shares, self.x.means, self.stream.means) + self.with_stream


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch's output y, and its covariance with the stream x that it is added to.

    Attributes:
        y: moments of the output.
        with_stream, cross_with_stream: as in `BranchInput`.
    """

    y: Mixture
    with_stream: Floats
    cross_with_stream: Floats


@dataclass(frozen=True, slots=True)
class Dense:
    """A dense layer, y = Wx + b.

    Attributes:
        weight: (d_out, d_in) W.
        bias: (d_out,) b.
    """

    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Gain:
    """A LayerNorm or RMSNorm.

    Attributes:
        gain, bias: (d,) each.
        eps: added to the variance before its root is taken.
        centred: whether the mean over features is removed first (LayerNorm).
    """

    gain: Floats
    bias: Floats
    eps: float
    centred: bool


def read(x: Mixture) -> BranchInput:
    """Return the stream as the input of a branch without a norm."""
    return BranchInput(x, x, x.within, x.cross)


def normed(x: Mixture, norm: Gain) -> BranchInput:
    r"""Return the stream after a norm, as a branch's input.

    Group c is divided by the root of :math:`s_c^2 = (|P m_c|^2 + tr\,P R P)/d + \epsilon`, where P
    removes the mean over features. Lengths within a group are taken as equal.

    Source: derived here.
    """
    d = len(norm.gain)
    centre = np.eye(d) - (1 / d if norm.centred else 0.0)
    centred = x.means @ centre
    size = np.square(centred).sum(1) / d + np.trace(centre @ x.within @ centre) / d + norm.eps
    inverse = size**-0.5
    linear = norm.gain[:, None] * centre
    mean_linear = float(x.shares @ inverse) * linear
    means = inverse[:, None] * (x.means @ linear.T) + norm.bias
    within = float(x.shares @ inverse**2) * linear @ x.within @ linear.T
    mean, fluctuating = x.shares @ means, x.cross - np.outer(x.mean, x.mean)
    cross = mean_linear @ fluctuating @ mean_linear.T + np.outer(mean, mean)
    crossed = mean_linear @ fluctuating + np.outer(mean, x.mean)
    after = Mixture(x.shares, means, within, cross)
    return BranchInput(after, x, mean_linear @ x.within, crossed)


def add(x: Mixture, branch: Branch, lam: float = 1.0, beta: float = 1.0) -> Mixture:
    r"""Return :math:`\lambda x + \beta y`, covariances of the two included. Exact."""
    y, both = branch.y, lam * beta
    shared, crossed = branch.with_stream, branch.cross_with_stream
    return Mixture(
        shares=x.shares,
        means=lam * x.means + beta * y.means,
        within=lam**2 * x.within + beta**2 * y.within + both * (shared + shared.T),
        cross=lam**2 * x.cross + beta**2 * y.cross + both * (crossed + crossed.T),
    )


def dropped(branch: Branch, p_drop: float) -> Branch:
    """Return a branch after dropout, which adds to each feature's variance alone. Exact."""
    y = branch.y
    noise = p_drop / (1 - p_drop) * np.diag(np.diagonal(y.second_moment))
    return replace(branch, y=replace(y, within=y.within + noise))


def transform(matrix: Floats, mean: Floats, layer: Dense) -> Floats:
    """Return E[(Wx + b)(Wy + b)^T] from `matrix` = E[x y^T], x and y of mean `mean`. Exact."""
    moved = np.outer(layer.weight @ mean, layer.bias)
    inner = layer.weight @ matrix @ layer.weight.T
    return np.asarray(inner + moved + moved.T + np.outer(layer.bias, layer.bias))


def _between(shares: Floats, a: Floats, b: Floats) -> Floats:
    return np.asarray((shares[:, None] * a).T @ b)
