"""File formats of images: what each file says of itself, and its pixels where no library gives them as they are."""
