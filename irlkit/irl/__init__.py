"""One file a method, one interface: `fit(choices, **settings) -> weights [S, p]`, all seeds as one batch."""

from irlkit.calibration import fit_scale
from irlkit.irl import bradley_terry, hinge, logistic, max_entropy, max_margin, max_margin_published

METHODS = {"max_margin_published": max_margin_published, "max_margin": max_margin, "hinge": hinge, "logistic": logistic,
           "bradley_terry": bradley_terry, "max_entropy": max_entropy}
PENALTIES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
GRIDS = {"max_margin": {"bound": (1.0, 3.0, 10.0, 30.0)}} | {
    method: {"penalty": PENALTIES} for method in ("hinge", "logistic", "bradley_terry", "max_entropy")}


def choose(method, train, calibration):
    """The method's regularisation, as {name: value}, with the lowest loss of its own on the calibration choices.

    Fitted on the training choices' first seed; no true reward and no test data have a part in it.
    """
    if method not in GRIDS:
        return {}
    (name, values), = GRIDS[method].items()
    losses = [METHODS[method].mean_loss(METHODS[method].fit(train, **{name: value}), calibration)[0] for value in values]
    return {name: values[losses.index(min(losses))]}


def choice_loss(weights, choices):
    """Negative log likelihood of `choices` (nats; book, eq. max-entropy) under weights [1, p] of any scale: the best one is fitted.

    It makes methods comparable whose rewards have different units, on calibration choices and without a true reward.
    """
    def loss(scale):
        return float(max_entropy.mean_loss(weights * scale, choices)[0])

    return loss(fit_scale(loss))
