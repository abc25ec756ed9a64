"""irlkit: what reward can be read back from the behaviour of a fine-tuned language model?"""

import warnings

__version__ = "0.1.0"

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's advice to install widgets, in every notebook
