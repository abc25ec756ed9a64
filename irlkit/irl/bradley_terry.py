"""Bradley–Terry on pairs of the same prompt (book, eq. bradley-terry; Bradley and Terry, 1952).

The usual loss of reward models: log(1 + exp(−d)), the mean over a pick's margins to all base texts of its prompt.
"""

from torch.nn.functional import softplus

from irlkit.irl.common import fit_pairwise, mean_pairwise


def loss(margins):
    """−log σ(d), elementwise, in nats."""
    return softplus(-margins)


def mean_loss(weights, choices):
    """Mean loss [S] (nats) of given weights [S, p]."""
    return mean_pairwise(loss, weights, choices)


def fit(choices, penalty=3e-3, epochs=100, on_epoch=None):
    """Weights [S, p] that minimise the mean loss plus (penalty / 2) ‖w‖², by L-BFGS from zero."""
    return fit_pairwise(loss, choices, penalty, epochs, on_epoch)
