"""What a model sees in images, videos and very large images: found, drawn and written."""
