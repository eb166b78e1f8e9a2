"""pages: typeset pages by the document class that set them."""
