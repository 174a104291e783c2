"""Reading requests: from the bytes of a body to encoded images, options and pixels."""
