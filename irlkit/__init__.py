"""irlkit: what reward can be read back from the behaviour of a fine-tuned language model?"""

__version__ = "0.1.0"
