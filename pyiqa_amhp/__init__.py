"""AMHP (Attribute-driven Multimodal Hierarchical Prompts, ACM MM 2024) as a pyiqa plug-in.

Importing the package registers AMHP with pyiqa. It imports neither pyiqa nor torch.
"""

from _pyiqa_amhp_autoload import install

__version__ = '0.2.0'

install()
