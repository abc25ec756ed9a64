"""One file a method, one interface: `fit(choices, **settings) -> weights [S, p]`, all seeds as one batch."""

from irlkit.irl import max_entropy, max_margin, max_margin_published

METHODS = {"max_margin_published": max_margin_published, "max_margin": max_margin, "max_entropy": max_entropy}
