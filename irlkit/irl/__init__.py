"""One file a method, one interface: `fit(choices, **settings) -> weights [S, p]`, all seeds as one batch."""

from irlkit.irl import max_entropy, max_margin, max_margin_published

METHODS = {"max_margin_published": max_margin_published, "max_margin": max_margin, "max_entropy": max_entropy}
GRIDS = {"max_margin": {"bound": (1.0, 3.0, 10.0, 30.0)}, "max_entropy": {"penalty": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)}}


def choose(method, train, calibration):
    """The method's regularisation, as {name: value}, with the lowest loss of its own on the calibration choices.

    Fitted on the training choices' first seed; no true reward and no test data have a part in it.
    """
    if method not in GRIDS:
        return {}
    (name, values), = GRIDS[method].items()
    losses = [METHODS[method].mean_loss(METHODS[method].fit(train, **{name: value}), calibration)[0] for value in values]
    return {name: values[losses.index(min(losses))]}
