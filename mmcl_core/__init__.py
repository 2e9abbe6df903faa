"""Multimodal contrastive learning for object recognition: train with every sensor, recognise with one.

The method is that of Meyer, Eitel, Brox and Burgard, "Improving Unimodal Object Recognition with
Multimodal Contrastive Learning" (IROS 2020). Nothing is imported here: take what you need from the
modules, :mod:`mmcl_core.recognizer` first of all.
"""

__version__ = "0.1.0"
