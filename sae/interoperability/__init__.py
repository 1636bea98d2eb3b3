"""Dictionaries in the layouts of other libraries: export, import, and the model card that goes with an export."""
