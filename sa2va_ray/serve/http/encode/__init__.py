"""Writing replies: masks in each output form, and the bodies that hold them."""
