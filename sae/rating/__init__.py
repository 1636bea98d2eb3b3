"""Features judged by people who do not know what they judge, and how far the automatic scores agree with them."""
