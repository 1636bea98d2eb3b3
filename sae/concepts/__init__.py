"""Which label a text has, read off single features or neurons: how well a dictionary's features stand for concepts that people can name."""
