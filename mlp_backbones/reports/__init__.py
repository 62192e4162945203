"""Where a model is right and where it fails: numbers, and a page that shows them."""
