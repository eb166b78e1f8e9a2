"""libreoffice_help_pairs: help texts in English, German and French."""
